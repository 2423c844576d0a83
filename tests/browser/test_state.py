"""Every state has a link, and the browser's history goes through them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Route, expect

from pages import Visitor, complete, head_cell
from served import PROMPT

pytestmark = pytest.mark.browser


def test_a_link_brings_everything_back(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.locator("#predictions [data-key^='explain.']").nth(3).click()
    complete(page)
    target = page.locator("#answer").get_attribute("data-target")
    page.locator("#neurons label", has_text="lowering").click()
    head_cell(page, 2, 1).click()
    page.locator("#detail").get_by_role("button", name="head 2.1 on the bench").click()
    page.get_by_role("button", name="Zero 1 part").click()
    verdict = page.locator("#ablation p").first.inner_text()
    page.get_by_role("button", name="Follow the links").click()
    expect(page.locator("#links-result .tree").first).to_be_visible()
    link = page.evaluate("location.hash")

    other = visit(address, wait=False)
    other.goto(f"{address}{link}")
    other.reload()
    complete(other)
    expect(other.locator("#answer")).to_have_attribute("data-target", target or "")
    expect(other.locator("#neuron-table caption")).to_contain_text("lowering")
    expect(other.locator("#detail-title")).to_have_text("Head 2.1")
    expect(other.locator("#ablation p").first).to_have_text(verdict)
    expect(other.locator("#links-result .tree").first).to_be_visible()
    assert other.evaluate("location.hash") == link


def test_back_and_forward(visit: Visitor, address: str) -> None:
    page = visit(address)
    first = page.locator("#answer").get_attribute("data-target") or ""
    page.locator("#predictions [data-key^='explain.']").nth(2).click()
    complete(page)
    second = page.locator("#answer").get_attribute("data-target") or ""
    assert second != first
    head_cell(page, 0, 0).click()
    expect(page.locator("#detail-title")).to_be_visible()
    page.go_back()
    expect(page.locator("#detail")).to_be_hidden()
    page.go_back()
    expect(page.locator("#answer")).to_have_attribute("data-target", first)
    page.go_forward()
    expect(page.locator("#answer")).to_have_attribute("data-target", second)


def test_what_is_read_of_a_part_is_asked_anew_of_the_next_question(visit: Visitor, address: str) -> None:
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
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/api/head")):
        page.locator("#predictions [data-key^='explain.']").nth(2).click()
    held[f"{address}api/attribute"].continue_()
    complete(page)
    expect(page.locator("#detail tbody tr").first).to_be_visible()


def test_what_makes_no_sense_in_a_link_is_left_out(visit: Visitor, address: str) -> None:
    page = visit(address, open="head.x", bench="window.1", factor="9", neurons="all", methods="ffn.0")
    expect(page.locator("#detail")).to_be_hidden()
    expect(page.locator("#bench")).to_contain_text("Nothing is on it")
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value(PROMPT)


def test_parts_that_the_model_does_not_have_are_told(visit: Visitor, address: str) -> None:
    page = visit(address, bench="head.99.0", ablated="true")
    expect(page.get_by_role("alert")).to_contain_text("99")
