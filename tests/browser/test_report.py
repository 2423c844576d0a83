"""The report on the demo model: light enough to send, whole without a network, and printed in full."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import mnemoscope as ms
from pages import PHONE, WIDE, Visitor, violations
from served import PROMPT

pytestmark = [pytest.mark.demo, pytest.mark.browser]

SECTIONS = (
    "Findings",
    "Map",
    "Neurons",
    "Where it reads",
    "What activates them",
    "How sure this is",
    "How to repeat it",
    "Downloads",
)


@pytest.fixture(scope="module")
def result(demo: ms.Model) -> ms.Attribution:
    sentence = "Paris is the capital of France, and Berlin is the capital of Germany. "
    found = demo.attribute(sentence * 13 + "The capital of Japan is the city of", " Tokyo")
    assert len(found.tokens) >= 200
    return found


@pytest.fixture(scope="module")
def report(result: ms.Attribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.save(tmp_path_factory.mktemp("report") / "report.html")


def opened(visit: Visitor, report: Path, size: tuple[int, int] = WIDE, scheme: str = "light") -> Page:
    """The file in a browser that has no network, when its data are unpacked."""
    page = visit.open(report.as_uri(), size, scheme, offline=True)
    expect(page.locator("body[data-ready]")).to_be_visible()
    return page


def test_it_is_light_and_refers_to_nothing(report: Path) -> None:
    content = report.read_bytes()
    assert len(content) < 600_000
    assert b"too long for a page" not in content
    assert not re.search(r"https?:|\bsrc=|@import|url\((?!#)", content.decode("utf-8"))


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_section_is_there_without_a_network(
    visit: Visitor, report: Path, size: tuple[int, int]
) -> None:
    page = opened(visit, report, size)
    for title in SECTIONS:
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    for name in ("map", "graph"):
        box = page.locator(f"#{name}").bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 100
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    width = page.locator("main").bounding_box()
    assert width is not None
    assert width["width"] <= 1120


def test_tabs_search_sort_and_the_map_answer(visit: Visitor, report: Path, result: ms.Attribution) -> None:
    page = opened(visit, report)
    page.get_by_role("tab", name="Lowering").click()
    expect(page.locator("#raising")).to_be_hidden()
    rows = page.locator("#lowering tbody tr:visible")
    expect(rows).to_have_count(20)
    worst = result.suppressing_ffn_neurons.iloc[0]
    name = f"{worst['layer']}.{worst['neuron']}"
    expect(rows.first).to_contain_text(name)
    page.get_by_role("searchbox").fill(name)
    expect(rows).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="activation").last.click()
    cells = page.locator("#lowering tbody tr td.number:nth-last-child(2)").evaluate_all(
        "cells => cells.map((cell) => Number(cell.dataset.v))"
    )
    assert cells == sorted(cells, reverse=True)
    best = result.heads.iloc[0][["layer", "head"]].astype(int)
    page.locator("#map path[class^=u]").last.hover()
    expect(page.locator(".tip")).to_contain_text(f"head {best['layer']}.{best['head']}: direct +")


def test_it_prints_on_eight_pages_at_most_and_cuts_nothing(visit: Visitor, report: Path) -> None:
    page = opened(visit, report)
    printed = page.pdf(prefer_css_page_size=True)
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 8
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for name in ("raising", "lowering"):
        expect(page.locator(f"#{name} tbody tr:visible")).to_have_count(20)
    page.set_viewport_size({"width": 703, "height": 1000})  # the width of A4 within its margins, in pixels
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
    colors = page.locator("#raising rect").first.evaluate("bar => getComputedStyle(bar).printColorAdjust")
    assert colors == "exact"


def test_nothing_keeps_people_out(visit: Visitor, llama: ms.Model, tmp_path: Path) -> None:
    short = llama.attribute(PROMPT, top=5).save(tmp_path / "short.html")
    for scheme in ("light", "dark"):
        assert violations(opened(visit, short, scheme=scheme)) == []


@pytest.mark.nightly  # hundreds of cells, each like the few of the test above
def test_nothing_in_a_long_report_keeps_people_out(visit: Visitor, report: Path) -> None:
    assert violations(opened(visit, report)) == []


def test_its_data_can_be_saved_and_load_again(
    visit: Visitor, report: Path, result: ms.Attribution, tmp_path: Path
) -> None:
    page = opened(visit, report)
    for name in ("result.json", "heads_by_position.csv"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        download.value.save_as(tmp_path / name)
    again = ms.Attribution.load(tmp_path / "result.json")
    assert again.ffn_neurons.equals(result.ffn_neurons)
    assert again.tokens == result.tokens
    lines = (tmp_path / "heads_by_position.csv").read_text("utf-8").splitlines()
    assert len(lines) == len(result.heads_by_position) + 1


def test_every_token_of_a_contrast_has_its_map(visit: Visitor, llama: ms.Model, tmp_path: Path) -> None:
    contrast = llama.attribute_continuation(PROMPT, " w9 w12", against=" w9 w40 w41", top=3)
    page = opened(visit, contrast.save(tmp_path / "contrast.html"))
    views = page.locator(".view")
    each = [*contrast.attributions, *contrast.against_attributions]
    expect(views).to_have_count(len(each))
    for view, one in zip(views.all(), each, strict=True):
        page.locator(f"#{view.get_attribute('aria-labelledby')}").click()
        view.locator(".map path[class^=u]").last.hover()
        best = one.heads.iloc[0][["layer", "head"]].astype(int)
        expect(view.locator(".tip")).to_contain_text(f"head {best['layer']}.{best['head']}: direct")
    expect(page.get_by_role("button", name="attributions.csv")).to_have_count(0)
