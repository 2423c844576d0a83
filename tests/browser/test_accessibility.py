"""Nothing that axe-core calls serious or worse, in any look, with everything open; and print."""

from __future__ import annotations

from itertools import pairwise

import pytest
from playwright.sync_api import expect

from pages import PHONE, TABLET, WIDE, Visitor, choose_tab, complete, head_cell, violations

pytestmark = pytest.mark.browser

TABS = ("Map", "Neurons", "Paths", "Lens")


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        pytest.param(WIDE, "light", id="wide-light"),
        pytest.param(PHONE, "dark", id="phone-dark"),
        pytest.param(TABLET, "dark", id="tablet-dark", marks=pytest.mark.nightly),
        pytest.param(WIDE, "dark", id="wide-dark", marks=pytest.mark.nightly),
        pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.nightly),
    ],
)
def test_no_grave_violations(visit: Visitor, address: str, size: tuple[int, int], scheme: str) -> None:
    page = visit(address, size, scheme, bench="head.1.0", pane="bench", methods="ffn.3")
    for tab in TABS:
        choose_tab(page, tab)
        assert violations(page) == []
    choose_tab(page, "Map")
    head_cell(page, 1, 0).click()
    complete(page)
    page.evaluate("for (const each of document.querySelectorAll('#part details')) each.open = true")
    assert violations(page) == []


def test_axe_runs(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.evaluate("document.querySelector('label[for=prompt]').remove()")
    page.evaluate("document.querySelector('#prompt').removeAttribute('placeholder')")
    page.evaluate("document.querySelector('#prompt').removeAttribute('title')")
    assert any(found.startswith("label") for found in violations(page))


def test_landmarks_and_headings(visit: Visitor, address: str) -> None:
    page = visit(address)
    for role in ("banner", "main"):
        expect(page.get_by_role(role)).to_have_count(1)
    expect(page.get_by_role("complementary")).to_have_count(2)
    levels = page.eval_on_selector_all(
        "h1, h2, h3", "found => found.filter(h => h.checkVisibility()).map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_progress_and_errors_are_announced(visit: Visitor, address: str) -> None:
    visit.refusals.append("400")
    page = visit(address)
    expect(page.get_by_role("status")).to_contain_text("is ready")
    page.get_by_label("Other token").fill("nowhere")
    page.locator("#other-target").get_by_role("button", name="Explain").click()
    expect(page.get_by_role("alert")).to_contain_text("nowhere")


def test_a_print_keeps_bars_and_cells(visit: Visitor, address: str) -> None:
    page = visit(address, scheme="dark", bench="head.1.0")
    page.emulate_media(media="print")
    exact, background, paper = page.evaluate(
        "() => { const bar = getComputedStyle(document.querySelector('#view .bar'));"
        " const cell = getComputedStyle(document.querySelector('#view .heat.raises'));"
        " return [[bar.printColorAdjust, cell.printColorAdjust], bar.backgroundColor + bar.backgroundImage,"
        " getComputedStyle(document.body).backgroundColor]; }"
    )
    assert exact == ["exact", "exact"]
    assert background != "rgba(0, 0, 0, 0)none"
    assert paper == "rgb(255, 255, 255)"
    expect(page.locator("#tabs")).to_be_hidden()
    expect(page.locator("#ask button")).to_be_hidden()
