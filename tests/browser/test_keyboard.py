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
    page.keyboard.press("/")
    assert focused(page) == "prompt"
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(words(9, 40, 21))
    page.keyboard.press("Enter")
    expect(page.locator("#chips .chip-token")).to_have_count(3)
    complete(page)

    if size == PHONE:
        tab_to(page, "rail-toggle")
        page.keyboard.press("Enter")
    tab_to(page, "explain.")
    page.keyboard.press("ArrowDown")
    second = focused(page).removeprefix("explain.")
    page.keyboard.press("Enter")
    expect(page.locator("#headline")).to_have_attribute("data-target", second)
    complete(page)

    tab_to(page, "map.")
    page.keyboard.press("Control+Home")
    assert focused(page) == "map.layer.2.attention"
    page.keyboard.press("j")
    page.keyboard.press("End")
    assert focused(page) == "map.head.1.3"
    expect(page.locator("#tip")).to_contain_text("Head 1.3")
    page.keyboard.press("Enter")
    expect(page.locator("#part-title")).to_have_text("Head 1.3")
    page.keyboard.press("b")
    expect(page.locator("#stages li.done")).to_have_count(3)
    if size == PHONE:
        page.keyboard.press("Escape")
        expect(page.locator("#inspector")).to_be_hidden()
    assert focused(page) == "map.head.1.3"
    page.keyboard.press("u")
    expect(page.locator("#bench .bench-list li")).to_have_count(0)


def test_keys_are_listed(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("put the part on the bench")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("t")
    assert focused(page) == "target"
    page.keyboard.type("j")  # a letter here, not a key
    expect(page.locator("#target")).to_have_value("j")


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


def test_the_focus_stays_when_views_are_drawn_anew(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.locator("#predictions [data-key^='explain.']").nth(1).focus()
    page.keyboard.press("Enter")
    complete(page)
    assert focused(page).startswith("explain.")
    page.locator("#view input[value='total']").focus()
    page.keyboard.press("Space")
    expect(page.locator("#view")).to_contain_text("estimated fall of log p")
    assert focused(page) == "effect.total"
