"""Everything can be reached and done with the keyboard alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from mnemoscope.testing import words
from pages import PHONE, WIDE, Visitor, complete

pytestmark = pytest.mark.browser

MOST_STOPS = 200


def focused(page: Page) -> str:
    """What has the focus: its data-key, id or text."""
    return page.evaluate(
        "() => { const at = document.activeElement;"
        " return at.dataset.key ?? (at.id || at.getAttribute('aria-label') || at.textContent); }"
    )


def tab_to(page: Page, start: str) -> None:
    """Press Tab until the focus is on something whose name starts so."""
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        if focused(page).startswith(start):
            return
    raise AssertionError(f"Tab does not come to {start}")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_from_prompt_to_ablation(visit: Visitor, address: str, size: tuple[int, int]) -> None:
    page = visit(address, size)
    page.keyboard.press("Tab")
    assert focused(page) == "skip"
    tab_to(page, "prompt")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(words(9, 40, 21))
    page.keyboard.press("Enter")
    expect(page.locator("#prompt-tokens li")).to_have_count(3)
    complete(page)

    tab_to(page, "explain.")
    page.keyboard.press("ArrowDown")
    second = focused(page).removeprefix("explain.")
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_attribute("data-target", second)
    complete(page)

    tab_to(page, "depth.")
    page.keyboard.press("Control+Home")
    assert focused(page) == "depth.layer.0.attention"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    assert focused(page) == "depth.head.1.3"
    page.keyboard.press("Enter")
    expect(page.locator("#detail caption")).to_be_visible()
    assert focused(page) == "detail.title"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#bench li")).to_contain_text("head 1.3")
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    assert focused(page) == "depth.head.1.3"

    tab_to(page, "bench.run")
    page.keyboard.press("Enter")
    expect(page.locator("#ablation")).to_be_visible()
    assert focused(page) == "bench.run"


def test_the_focus_can_be_seen(visit: Visitor, address: str) -> None:
    page = visit(address)
    unseen, n_stops = [], 0
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement !== document.body"):
        shape = page.evaluate(
            "() => { const at = document.activeElement;"
            " const shown = at.type === 'radio' ? at.nextElementSibling : at;"
            " const style = getComputedStyle(shown);"
            " return [style.outlineStyle, parseFloat(style.outlineWidth)]; }"
        )
        if shape[0] == "none" or shape[1] < 2:
            unseen.append(focused(page))
        page.keyboard.press("Tab")
        n_stops += 1
    assert unseen == []
    assert n_stops > 20


def test_a_grid_is_one_stop(visit: Visitor, address: str) -> None:
    page = visit(address)
    for grid in page.get_by_role("grid").all():
        assert grid.locator("[tabindex='0']").count() == 1


def test_the_focus_stays_when_tables_are_drawn_anew(visit: Visitor, address: str) -> None:
    page = visit(address)
    button = page.locator("#predictions [data-key^='explain.']").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    complete(page)
    assert focused(page).startswith("explain.")
    page.locator("#neurons input[value='lowering']").focus()
    page.keyboard.press("Space")
    expect(page.locator("#neuron-table caption")).to_contain_text("lowering")
    assert focused(page) == "direction.lowering"
