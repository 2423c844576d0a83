"""A model of 62 layers of 32 heads: the map stays usable, with sticky axes and names by tooltip."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from pages import Visitor, complete

pytestmark = pytest.mark.browser

N_LAYERS, N_HEADS = 62, 32


def enlarged(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with as many layers and heads, of made-up effects."""
    effects = [
        {
            "direct": math.sin(number),
            "total": math.cos(number),
            "mediated": math.cos(number) - math.sin(number),
        }
        for number in range(N_LAYERS * N_HEADS)
    ]
    layers = [
        {"layer": layer, "kind": kind, **effects[2 * layer + place]}
        for layer in range(N_LAYERS)
        for place, kind in enumerate(("attention", "ffn"))
    ]
    heads = [
        {"layer": layer, "head": head, **effects[layer * N_HEADS + head]}
        for layer in range(N_LAYERS)
        for head in range(N_HEADS)
    ]
    return {**answer, "layers": layers, "heads": heads}


@pytest.fixture
def page(visit: Visitor, address: str) -> Page:
    page = visit.open(f"{address}#prompt=w5+w17")
    complete(page)

    def enlarge(route: Route) -> None:
        lines = route.fetch().text().splitlines()
        last = json.loads(lines[-1])
        last["result"] = enlarged(last["result"])
        route.fulfill(body=json.dumps(last) + "\n", content_type="application/x-ndjson")

    page.route("**/api/attribute", enlarge)
    page.locator("#predictions [data-key^='explain.']").nth(1).click()
    expect(page.locator("#view .map [data-part^='head.']")).to_have_count(N_LAYERS * N_HEADS)
    complete(page)
    return page


def test_axes_stay_in_view(page: Page) -> None:
    scroll = page.locator("#view .map-scroll")
    heights = page.eval_on_selector_all(
        "#view .map [role=rowheader]", "found => found.map(each => each.getBoundingClientRect().height)"
    )
    assert min(heights) >= 10
    scroll.evaluate("at => at.scrollTo(at.scrollWidth, at.scrollHeight)")
    box = scroll.bounding_box()
    assert box is not None
    header = page.locator("#view .map-head").bounding_box()
    first = page.locator("#view .map [role=rowheader]").last.bounding_box()
    assert header is not None
    assert first is not None
    assert header["y"] == pytest.approx(box["y"], abs=2)
    assert first["x"] == pytest.approx(box["x"], abs=2)
    assert first["y"] + first["height"] <= box["y"] + box["height"] + 1
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_names_are_in_the_tooltip(page: Page) -> None:
    cell = page.locator("#view [data-part='head.61.31']")
    cell.hover()
    tip = page.locator("#tip")
    expect(tip).to_contain_text("Head 61.31")
    expect(tip).to_contain_text("Enter opens, B adds to bench")
    page.keyboard.press("b")
    expect(page.get_by_role("tab", name="Bench (1)")).to_be_visible()
    page.keyboard.press("u")
    expect(page.get_by_role("tab", name="Bench", exact=True)).to_be_visible()
