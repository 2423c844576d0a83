"""Every state has a link, and Back undoes every change."""

from __future__ import annotations

import json

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


def test_undo_goes_back_over_a_followed_link(visit: Visitor, address: str) -> None:
    page = visit(address)
    first = page.evaluate("location.hash")
    page.get_by_role("textbox", name="Prompt", exact=True).fill(f"{PROMPT} w9")
    page.keyboard.press("Enter")
    expect(page.locator("#history-list li")).to_have_count(2)
    complete(page)
    page.locator("#history-list li").last.get_by_role("link").click()
    expect(page.locator("#chips .chip-token")).to_have_count(4)
    complete(page)
    page.keyboard.press("u")
    expect(page.locator("#chips .chip-token")).to_have_count(5)
    complete(page)
    for _ in range(3):
        page.keyboard.press("u")
        page.wait_for_timeout(100)
    complete(page)
    assert page.evaluate("location.hash") == first


@pytest.mark.parametrize("text", ["59", "null"])
def test_a_text_is_not_the_id_or_nothing_that_is_written_alike(
    visit: Visitor, address: str, text: str
) -> None:
    visit.refusals.append("422")  # no such word
    page = visit(address, **({"target_id": "59"} if text == "59" else {}))
    page.get_by_label("Other token").fill(text)
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert f"target={text}" in page.evaluate("location.hash")


def test_an_unchanged_target_of_b_stays_an_id(visit: Visitor, address: str) -> None:
    page = visit(address, b=f"{PROMPT} w9", b_target_id="59")
    page.get_by_role("button", name="Set", exact=True).click()
    page.get_by_label("Target of B").press("Enter")
    complete(page)
    assert "b_target_id=59" in page.evaluate("location.hash")


def test_a_prompt_b_may_read_null(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.keyboard.press("c")
    page.get_by_role("textbox", name="Prompt B").fill("null")
    page.keyboard.press("Enter")
    expect(page.locator("#view .compared")).to_have_count(3)
    complete(page)
    assert "b=null" in page.evaluate("location.hash")


def test_back_brings_the_former_comparison_of_methods(visit: Visitor, address: str) -> None:
    page = visit(address, tab="methods")
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.post_data_json["top"])
        row = {"method": "x", "title": f"The first {asked[-1]}", "drop": 1, "passes": 1}
        result = {"summary": [row], "left_out": [], "outcomes": []}
        line = json.dumps({"event": "result", "result": result})
        route.fulfill(body=f"{line}\n", content_type="application/x-ndjson")

    page.route("**/api/methods", answer)
    for top in ("3", "10"):
        page.get_by_label("How many neurons").fill(top)
        page.get_by_role("button", name="Compare methods").click()
        expect(page.locator("#methods-result")).to_contain_text(f"The first {top}")
    page.go_back()
    expect(page.locator("#methods-result")).to_contain_text("The first 3")
    expect(page.get_by_label("How many neurons")).to_have_value("3")
    page.go_back()
    expect(page.locator("#methods-result")).to_be_empty()
    assert asked == [3, 10, 3]


@pytest.mark.parametrize("nonsense", ["-1", "1.5"])
def test_layers_that_are_none_are_not_taken(visit: Visitor, address: str, nonsense: str) -> None:
    page = visit(address, tab="neurons")
    page.get_by_label("First layer").fill(nonsense)
    page.get_by_label("First layer").press("Enter")
    expect(page.get_by_label("First layer")).to_have_value("")
    assert "from=" not in page.evaluate("location.hash")


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
