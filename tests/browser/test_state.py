"""Every state has a link, and Back undoes every change."""

from __future__ import annotations

import pytest
from playwright.sync_api import Route, expect

from pages import PHONE, Visitor, choose_tab, complete, head_cell
from served import PROMPT

pytestmark = pytest.mark.browser


def test_a_link_brings_everything_back(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.locator("#predictions [data-key^='explain.']").nth(3).click()
    complete(page)
    target = page.locator("#headline").get_attribute("data-target")
    head_cell(page, 2, 1).click()
    page.locator("#part").get_by_role("button", name="head 2.1 on the bench").click()
    choose_tab(page, "Neurons")
    page.locator("#view label", has_text="lowers").click()
    page.get_by_role("tab", name="Bench (1)").click()
    expect(page.locator("#stages li.done")).to_have_count(3)
    verdict = page.locator("#ablation .verdict").inner_text()
    link = page.evaluate("location.hash")

    other = visit(address)
    other.goto(f"{address}{link}")
    other.reload()
    complete(other)
    expect(other.locator("#headline")).to_have_attribute("data-target", target or "")
    expect(other.locator("#view tbody .bar.raises")).to_have_count(0)
    expect(other.locator("#part-title")).to_have_text("Head 2.1")
    expect(other.locator("#ablation .verdict")).to_have_text(verdict)
    assert other.evaluate("location.hash") == link


def test_back_undoes_each_change_and_forward_does_it_again(visit: Visitor, address: str) -> None:
    page = visit(address)
    first = page.locator("#headline").get_attribute("data-target") or ""
    page.locator("#predictions [data-key^='explain.']").nth(2).click()
    complete(page)
    second = page.locator("#headline").get_attribute("data-target") or ""
    assert second != first
    head_cell(page, 0, 0).click()
    expect(page.locator("#part-title")).to_be_visible()
    page.keyboard.press("b")
    expect(page.locator("#bench .bench-list li")).not_to_have_count(0)
    page.keyboard.press("u")
    expect(page.locator("#bench .bench-list li")).to_have_count(0)
    page.go_back()
    expect(page.locator("#part-title")).to_have_count(0)
    page.go_back()
    expect(page.locator("#headline")).to_have_attribute("data-target", first)
    page.go_forward()
    expect(page.locator("#headline")).to_have_attribute("data-target", second)
    complete(page)


def test_undo_stays_on_the_page(visit: Visitor, address: str) -> None:
    page = visit(address)
    for _ in range(3):
        page.keyboard.press("u")
    complete(page)
    assert page.url.startswith(address)


def test_a_part_is_read_anew_for_the_next_question(visit: Visitor, address: str) -> None:
    page = visit(address)
    held: dict[str, Route] = {}

    def hold_the_first(route: Route) -> None:
        """The first of each is answered when we say so."""
        if route.request.url in held:
            route.continue_()
        held.setdefault(route.request.url, route)

    page.route("**/api/head", hold_the_first)
    page.route("**/api/attribute", hold_the_first)
    with page.expect_request("**/api/head"):
        head_cell(page, 0, 0).click()
    page.locator("#predictions [data-key^='explain.']").nth(2).click()
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/api/head")):
        held[f"{address}api/attribute"].continue_()
    complete(page)
    expect(page.locator("#part .strip")).to_be_visible()


def test_nonsense_in_a_link_is_left_out(visit: Visitor, address: str) -> None:
    page = visit(address, open="head.x", bench="window.1", factor="9", kind="all", methods="ffn.0", share="x")
    expect(page.locator("#part-title")).to_have_count(0)
    expect(page.locator("#bench .bench-list li")).to_have_count(0)
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value(PROMPT)


def test_parts_that_the_model_does_not_have_are_refused(visit: Visitor, address: str) -> None:
    page = visit(address, bench="head.99.0", pane="bench")
    expect(page.get_by_role("alert")).to_contain_text("99")


def test_the_sheet_of_a_phone_is_closed_by_a_link_and_has_three_heights(visit: Visitor, address: str) -> None:
    page = visit(address, PHONE, open="head.1.0")
    inspector = page.locator("#inspector")
    expect(inspector).to_be_hidden()
    head_cell(page, 1, 1).click()
    expect(inspector).to_be_visible()
    heights = set()
    for _ in range(3):
        page.get_by_role("button", name="Height of the sheet").click()
        heights.add(round(inspector.bounding_box()["height"]))  # pyright: ignore[reportOptionalSubscript]
    assert len(heights) == 3
    page.keyboard.press("Escape")
    expect(inspector).to_be_hidden()
