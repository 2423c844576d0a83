"""The report of a long prompt on the demo model: light enough to send, and whole without a network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import mnemoscope as ms
from pages import PHONE, WIDE, Visitor, violations
from served import PROMPT

pytestmark = [pytest.mark.demo, pytest.mark.browser]

PANELS = (
    "Layers and heads",
    "Attention and FFN along the depth",
    "From the embeddings to the prediction",
    "Heads",
    "Heads over the tokens",
    "FFN neurons",
    "Neurons",
    "Attention neurons",
    "Attention neurons, positions added up",
    "Heads at positions",
    "What activates them",
    "Data",
    "How sure this is",
    "How to repeat it",
)
CHARTS = ("layers", "path", "heads", "positions", "neurons")


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
    """The file in a browser that has no network, when its charts are drawn."""
    page = visit.open(report.as_uri(), size, scheme, offline=True)
    expect(page.locator("figure .live:not([hidden]) svg")).to_have_count(len(CHARTS))
    return page


def test_it_is_light_and_refers_to_nothing(report: Path) -> None:
    content = report.read_bytes()
    assert len(content) < 3_000_000
    assert b"too long for a page" not in content
    outside = re.sub(r"<script>.*</script>", "", content.decode("utf-8"), flags=re.DOTALL)
    assert not re.search(r"https?:|\bsrc=|@import|url\((?!#)", outside)
    assert all(address.startswith(("#", "data:")) for address in re.findall(r'href="([^"]*)', outside))


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_panel_is_there_without_a_network(visit: Visitor, report: Path, size: tuple[int, int]) -> None:
    page = opened(visit, report, size)
    for title in PANELS:
        expect(page.get_by_role("heading", name=title, exact=True).first).to_be_visible()
    for name in CHARTS:
        chart = page.locator(f"#chart-{name} .live svg")
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 100
        assert chart.locator("path").count() > 10
    assert page.locator("#ffn_neurons ~ .scroll tbody tr").count() == 50
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_nothing_keeps_people_out(visit: Visitor, llama: ms.Model, tmp_path: Path) -> None:
    short = llama.attribute(PROMPT, top=5).save(tmp_path / "short.html")
    for scheme in ("light", "dark"):
        assert violations(opened(visit, short, scheme=scheme)) == []


@pytest.mark.nightly  # thousands of cells, each like the few of the test above
def test_nothing_in_a_long_report_keeps_people_out(visit: Visitor, report: Path) -> None:
    # The contrast of thousands of cells takes a minute.
    assert violations(opened(visit, report), rules={"color-contrast": {"enabled": False}}) == []


def test_its_data_can_be_saved_and_loads_again(
    visit: Visitor, report: Path, result: ms.Attribution, tmp_path: Path
) -> None:
    page = opened(visit, report)
    with page.expect_download() as download:
        page.get_by_role("link", name="result.json").click()
    path = tmp_path / "result.json"
    download.value.save_as(path)
    again = ms.Attribution.load(path)
    assert again.ffn_neurons.equals(result.ffn_neurons)
    assert again.tokens == result.tokens
