"""Nothing that axe-core calls serious or worse, in any look, with everything open."""

from __future__ import annotations

from itertools import pairwise

import pytest
from playwright.sync_api import expect

from pages import PHONE, WIDE, Visitor, complete, head_cell, violations

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        pytest.param(WIDE, "light", id="wide-light"),
        pytest.param(PHONE, "dark", id="phone-dark"),
        pytest.param(WIDE, "dark", id="wide-dark", marks=pytest.mark.nightly),
        pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.nightly),
    ],
)
def test_no_grave_violations(visit: Visitor, address: str, size: tuple[int, int], scheme: str) -> None:
    page = visit(address, size, scheme, bench="head.1.0", ablated="true", linked="true", methods="ffn.3")
    expect(page.locator("#methods-result tbody tr").first).to_be_visible()
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert violations(page) == []
    head_cell(page, 1, 0).click()
    complete(page)
    assert violations(page) == []


def test_axe_runs(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.evaluate("document.querySelector('#prompt').closest('form').querySelector('label').remove()")
    assert any(found.startswith("label") for found in violations(page))


def test_landmarks_and_headings(visit: Visitor, address: str) -> None:
    page = visit(address)
    for role in ("banner", "main", "complementary", "navigation", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    levels = page.eval_on_selector_all(
        "h1, h2, h3", "found => found.filter(h => h.checkVisibility()).map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_progress_and_errors_are_told(visit: Visitor, address: str) -> None:
    page = visit(address)
    expect(page.get_by_role("status")).to_contain_text("is ready")
    page.get_by_label("Target", exact=True).fill("nowhere")
    page.locator("#other-target").get_by_role("button", name="Explain").click()
    expect(page.get_by_role("alert")).to_contain_text("nowhere")
