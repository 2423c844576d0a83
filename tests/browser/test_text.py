"""Whatever a prompt holds is text, and nothing of it is hidden."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from mnemoscope.report.tokens import visible
from mnemoscope.testing import words
from pages import PHONE, WIDE, Visitor

pytestmark = pytest.mark.browser

ODD = [
    "",
    " Tokyo",
    "  ",
    " a b ",
    "\n\n",
    "\t",
    "a\u202eb",
    "\u200b",
    "\ufeff",
    "\u00a0x",
    "\u0301",
    "e\u0301",
    "日本",
    "مرحبا",
    "🙂",
    "\U000e0041",
    "\ufffd",
    "\u3164",
    "\x00\x1b[2J",
    "<script>alert(1)</script>",
    "&lt;",
    "\ue000",
    "\u2028",
]
HOSTILE = [
    "<script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "</textarea><style>*{display:none}</style>",
    "abc \u202egnp.exe\u202c def",
]


def test_tokens_are_visible_by_the_same_rules(visit: Visitor, address: str) -> None:
    page = visit(address)
    shown = page.evaluate(
        "async (texts) => texts.map((await import('/static/tokens.js')).visible)",
        ODD,
    )
    assert shown == [visible(text) for text in ODD]


@pytest.mark.parametrize("prompt", HOSTILE)
def test_markup_is_text(visit: Visitor, address: str, prompt: str) -> None:
    page = visit(address)
    n_scripts = page.locator("script").count()
    page.get_by_role("textbox", name="Prompt", exact=True).fill(prompt)
    page.keyboard.press("Enter")
    expect(page.locator("#history-list li")).to_have_count(2)
    expect(page.locator("#history-list bdi").first).to_have_text(visible(prompt))
    assert page.locator("script").count() == n_scripts
    assert page.locator("main img, main style").count() == 0
    assert page.title() != "taken"


def test_a_null_character_is_refused_in_words(visit: Visitor, address: str) -> None:
    visit.refusals.append("422")
    page = visit(address)
    page.evaluate("location.hash = 'prompt=a%00b'")
    expect(page.get_by_role("alert").first).to_contain_text("null character")


@pytest.mark.parametrize("n_tokens", [60, 64])  # all shown, and some behind a button
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_no_row_of_tokens_is_cut(visit: Visitor, address: str, size: tuple[int, int], n_tokens: int) -> None:
    page = visit(address, size, prompt=words(*range(5, 5 + n_tokens)))
    cut = page.locator(".chips").evaluate(
        """chips => {
            const { top, bottom } = chips.getBoundingClientRect();
            return [...chips.children].map((chip) => chip.getBoundingClientRect())
                .filter((chip) => chip.top < top - 0.5 || (chip.top < bottom && chip.bottom > bottom + 0.5))
                .length;
        }"""
    )
    assert cut == 0


@pytest.mark.demo
def test_a_hidden_character_of_several_tokens_is_escaped(visit: Visitor, demo_address: str) -> None:
    page = visit.open(f"{demo_address}#prompt=a%E2%80%AEb")
    expect(page.locator("#chips small")).to_have_text(" \\u202e")
    assert "\u202e" not in page.locator("#chips").inner_text()
    assert "\u202e" not in (
        page.locator("#chips [data-tip*='part of']").first.get_attribute("data-tip") or ""
    )
