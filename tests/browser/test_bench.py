"""The bench: its answers belong to what stands on it, and what is saved of it comes back."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from mnemoscope.testing import words
from pages import Visitor, complete
from served import PROMPT

pytestmark = pytest.mark.browser

OTHER = words(9, 40, 21, 7, 60)


def apply_to_b(page: Page) -> None:
    page.get_by_role("button", name="Apply to B").click()
    expect(page.locator("#ablation-b .verdict")).to_be_visible()
    complete(page)


def test_what_was_measured_of_b_is_forgotten_with_it(visit: Visitor, address: str) -> None:
    page = visit(address, bench="head.1.0", pane="bench", b=OTHER)
    apply_to_b(page)
    page.get_by_label("Target of B").fill(" w9")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("#bench-b")).to_be_empty()
    apply_to_b(page)
    page.go_back()  # to the former target of B
    expect(page.locator("#bench-b")).to_be_empty()
    apply_to_b(page)
    page.locator("#compare").click()
    expect(page.get_by_role("button", name="Apply to B")).to_have_count(0)
    expect(page.locator("#bench-b")).to_be_empty()
    page.go_back()
    expect(page.get_by_role("button", name="Apply to B")).to_be_enabled()
    expect(page.locator("#bench-b")).to_be_empty()
    page.get_by_label("Change head 1.0").uncheck()
    expect(page.get_by_role("button", name="Apply to B")).to_be_disabled()


def test_an_answer_on_b_to_another_change_is_not_waited_for(visit: Visitor, address: str) -> None:
    page = visit(address, bench="head.1.0", pane="bench", b=OTHER)
    expect(page.locator("#stages li.done")).to_have_count(3)
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        held.append(route)

    page.route("**/api/ablate", hold_the_first)
    with page.expect_request("**/api/ablate"):
        page.get_by_role("button", name="Apply to B").click()
    with page.expect_event("requestfailed", lambda request: request == held[0].request):
        page.get_by_label("Factor as a number").fill("2")
        page.get_by_label("Factor as a number").press("Enter")
    expect(page.locator("#stages li.done")).to_have_count(3)
    complete(page)
    expect(page.locator("#bench-b")).to_be_empty()


def test_stopped_on_b_it_runs_again_on_b(visit: Visitor, address: str) -> None:
    page = visit(address, bench="head.1.0", pane="bench", b=OTHER)
    expect(page.locator("#stages li.done")).to_have_count(3)
    page.route("**/api/ablate", lambda _: None, times=1)
    page.get_by_role("button", name="Apply to B").click()
    page.get_by_role("button", name="Cancel: Measuring the change").click()
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("#ablation-b .verdict")).to_be_visible()


def test_another_b_asks_nothing_of_a(visit: Visitor, address: str) -> None:
    page = visit(address, b=OTHER)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(address)))
    page.get_by_role("textbox", name="Prompt B").fill(f"{PROMPT} w9")
    page.keyboard.press("Enter")
    expect(page.locator("#predictions-b")).to_contain_text("w9 ▸")
    complete(page)
    assert asked == ["api/compare"]


def test_a_saved_set_comes_back_as_it_was(visit: Visitor, address: str) -> None:
    page = visit(address, bench="head.1.0", pane="bench", mean="yes")
    page.get_by_label("Name of the set").fill("means")
    page.get_by_role("button", name="Save set").click()
    page.get_by_label("Change head 1.0").uncheck()
    page.get_by_role("button", name="zero", exact=True).click()
    page.get_by_label("Factor as a number").fill("2")
    page.get_by_label("Factor as a number").press("Enter")
    page.get_by_label("Name of the set").fill("doubled and off")
    page.get_by_role("button", name="Save set").click()
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Put the set means on the bench").click()
    expect(page.locator("[data-key='bench.mean']")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Change head 1.0")).to_be_checked()
    page.get_by_role("button", name="Put the set doubled and off on the bench").click()
    expect(page.get_by_label("Factor as a number")).to_have_value("2")
    expect(page.get_by_label("Change head 1.0")).not_to_be_checked()
    assert "mean" not in page.evaluate("location.hash")
    page.get_by_label("Change head 1.0").check()
    expect(page.locator("#stages li.done")).to_have_count(3)


def test_a_mean_beside_a_factor_is_left_out(visit: Visitor, address: str) -> None:
    page = visit(address, bench="head.1.0", pane="bench", mean="yes", factor="2")
    expect(page.locator("#stages li.done")).to_have_count(3)


@pytest.mark.parametrize(
    ("kept", "n_sets"),
    [
        ("{", 0),
        ('{"name": "x"}', 0),
        ('[null, {"name": "x", "bench": ["window.1"], "factor": 0}, {"name": "y"}]', 0),
        ('[{"name": "old", "bench": ["head.1.0"], "factor": 0}]', 1),
    ],
)
def test_damaged_sets_are_left_out(visit: Visitor, address: str, kept: str, n_sets: int) -> None:
    page = visit(address)
    page.evaluate("kept => localStorage.setItem('mnemoscope sets', kept)", kept)
    page.reload()
    complete(page)
    expect(page.locator("#sets .set")).to_have_count(n_sets)
