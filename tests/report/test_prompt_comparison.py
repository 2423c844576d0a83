"""The report of a comparison of two prompts: every drawn and written value is the data's."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

import pytest

import mnemoscope as ms
from mnemoscope._io import json_text
from mnemoscope.report.figures import LEVELS, level
from mnemoscope.report.prompt_comparison import SIDES, render_html
from mnemoscope.report.text import signed
from mnemoscope.results.prompt_comparison import PromptComparison
from mnemoscope.testing import words

A, B = words(5, 17, 80, 33), words(9, 17, 41)


@pytest.fixture(scope="module")
def compared(llama: ms.Model) -> PromptComparison:
    return llama.compare(A, B, target_a=" w40", target_b=[" w41", " w44"], against_b=" w42", top=30)


class Tree(HTMLParser):
    """Builds the tree of a page whose elements all end, but for those that are always empty."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.builder = TreeBuilder()
        self.feed(text)
        self.root = self.builder.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in ("meta", "input"):
            self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


@pytest.fixture(scope="module")
def root(compared: PromptComparison) -> Element:
    return Tree(render_html(compared)).root


def one(root: Element, path: str) -> Element:
    found = root.find(f".//{path}")
    assert found is not None, path
    return found


def text_of(element: Element) -> str:
    return "".join(element.itertext())


def test_every_bar_is_as_long_as_its_score(compared: PromptComparison, root: Element) -> None:
    for kind in ("attention", "ffn"):
        rows = compared.layers[compared.layers["kind"] == kind].sort_values("layer")
        for side in SIDES:
            group = one(root, f"svg[@id='map']/g[@data-kind='{kind}'][@data-side='{side}']")
            per_nat = float(group.attrib["data-nat"])
            signs = {"up": 1, "down": -1}
            drawn = [
                signs[bar.attrib["class"]] * float(bar.attrib["width"]) / per_nat
                for bar in group.iter("rect")
            ]
            assert drawn == pytest.approx(rows[side].tolist(), abs=0.006 / per_nat)


def test_every_cell_is_as_dark_as_its_score(compared: PromptComparison, root: Element) -> None:
    heads = compared.heads.sort_values(["layer", "head"])
    most = max(heads[side].abs().max() for side in SIDES)
    for side in SIDES:
        group = one(root, f"svg[@id='map']/g[@data-side='{side}'][@data-most]")
        assert float(group.attrib["data-most"]) == pytest.approx(most, rel=1e-5)
        drawn: dict[tuple[float, float], int] = {}
        for path in group.iter("path"):
            name = path.attrib["class"]
            step = 0 if name == "none" else int(name[1:]) * (1 if name[0] == "u" else -1)
            for x, y in re.findall(r"M([\d.]+) ([\d.]+)", path.attrib["d"]):
                drawn[-float(y), float(x)] = step or drawn.get((-float(y), float(x)), 0)
        expected = [level(score, most) * (1 if score > 0 else -1) for score in heads[side]]
        assert [drawn[place] for place in sorted(drawn)] == expected
        assert max(map(abs, expected)) <= LEVELS


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ("heads", "div[@id='heads']"),
        ("ffn_neurons", "div[@id='ffn']"),
        ("attention_neurons_summed", "div[@id='attention']"),
        ("layers", "details"),
    ],
)
def test_every_row_has_a_b_and_diff(
    compared: PromptComparison, root: Element, table: str, place: str
) -> None:
    rows = getattr(compared, table)
    drawn = list(one(root, f"{place}//tbody").iter("tr"))
    assert len(drawn) == min(len(rows), 100) > 0
    for row, (_, values) in zip(drawn, rows.iterrows(), strict=False):
        cells = list(row.iter("td"))
        assert [text_of(cell) for cell in cells[1:4]] == [signed(values[side]) for side in SIDES]
        for cell, side in zip(cells[1:4], SIDES, strict=True):
            assert float(cell.attrib["data-v"]) == pytest.approx(values[side], rel=1e-5)
        (bar,) = cells[3].iter("rect")
        share = abs(values["diff"]) / rows["diff"].abs().max()
        assert float(bar.attrib["width"]) == pytest.approx(72 * share, abs=0.006)
        assert bar.attrib["class"] == ("up" if values["diff"] >= 0 else "down")


def test_the_page_holds_both_questions_its_data_and_no_path(
    compared: PromptComparison, root: Element, llama_folder: str
) -> None:
    assert [text_of(code) for code in one(root, "header").iter("pre")] == [A, B]
    packed = one(root, "a[@id='data-file']").attrib["href"].split(",")[1]
    assert json.loads(gzip.decompress(base64.b64decode(packed))) == json.loads(json_text(compared.to_json()))
    command = next(text_of(code) for code in root.iter("pre") if "mnemoscope compare" in text_of(code))
    for flag in ("--target-a", "--target-b", "--against-b", "--top 30"):
        assert flag in command
    of_folder = ms.load(llama_folder).compare(A, B, top=2)
    assert str(Path(llama_folder).parent) not in render_html(of_folder)


@pytest.mark.demo
def test_the_report_of_the_demo_model_is_small(demo: ms.Model, tmp_path: Path) -> None:
    prompts = (f"The capital of {name} is the city of" for name in ("Japan", "China"))
    path = demo.compare(*prompts, top=100).save(tmp_path / "compared.html")
    assert path.stat().st_size < 600_000
