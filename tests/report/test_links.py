"""What a terminal and files show of links."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import networkx
import pytest
from rich.cells import cell_len
from rich.console import Console

from mnemoscope.errors import OutputError
from mnemoscope.report.charts import svg
from mnemoscope.report.terminal.query import render_links
from mnemoscope.results.query import QueryGraph

TOKENS = ("The", "\x00[bold]\uffff\r", " of")


def shown(links: QueryGraph, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        render_links(links, console)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def test_draws_every_part_with_its_links_once(links: QueryGraph) -> None:
    odd = "1 \\u0000[bold]\\uffff\\u000d"
    trees = (
        "+2.000  ffn 5.7 at 2 ␣of · links explain 75.0 %",
        f"├── +50.0 %  +1.000  head 3.2 from {odd} · links explain 10.0 %",
        "│   ├──  +5.0 %  +0.050  ffn 2.8 at 2 ␣of · see below",
        f"│   └──  +5.0 %  +0.050  embeddings at {odd}",
        "└── +25.0 %  +0.500  ffn 4.3 at 2 ␣of · value neuron, see below",
        "",
        "+1.000  ffn 4.3 at 2 ␣of · gives others +0.500 · links explain −25.0 %",
        "└── −25.0 %  −0.375  ffn 2.8 at 2 ␣of · links explain 150.0 %",
        "    └──  +4.0 %  −0.020  biases at 2 ␣of",
        "",
        "+0.250  attention 3.1.5 at 2 ␣of · skipped: its inputs nearly cancel",
        "",
    )
    assert "\n".join(trees) in shown(links)


def test_says_what_is_shown_and_what_is_not(links: QueryGraph) -> None:
    text = shown(links)
    assert "of ␣Tokyo, 2 of each kind, 2 steps back, 2 links each" in text
    assert "the links shown explain 34.5 % of the value neurons' scores" in text
    assert "weights of attention and of norms are held fixed" in text


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_keeps_within_the_width_and_what_matters(links: QueryGraph, width: int) -> None:
    links.nodes["token"] = "a very long token " * 20
    text = shown(links, width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    if width >= 80:
        assert len(re.findall(r"…? · (?:value neuron, )?see below", text)) == 2
        assert "links explain 150.0 %" in text


def test_writes_no_control_characters(links: QueryGraph) -> None:
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", shown(links))


def test_json_is_what_the_command_prints(links: QueryGraph, tmp_path: Path) -> None:
    path = links.save(tmp_path / "links.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["nodes"][3]["token"] == TOKENS[1]
    assert document["edges"] == links.to_json()["edges"]
    assert [file.name for file in tmp_path.iterdir()] == ["links.json"]


def test_graphml_is_read_back_by_networkx(links: QueryGraph, tmp_path: Path) -> None:
    graph = networkx.read_graphml(links.save(tmp_path / "links.GraphML"))
    assert set(graph) == set(links.nodes["id"])
    assert graph.nodes["head 3.2"]["token"] == "\\u0000[bold]\\uffff\\u000d"
    assert graph.nodes["ffn 5.7"]["token"] == " of"
    assert graph.nodes["attention 3.1"]["skipped"] is True
    assert graph.edges["ffn 2.8", "ffn 4.3"]["share"] == -0.25
    assert graph.graph["explained"] == 0.345
    assert graph.graph["prompt"].endswith(" of\\ud800")


@pytest.mark.parametrize("name", ["links.parquet", "links", "no/links.json"])
def test_refuses_other_files(links: QueryGraph, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        links.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_characters_that_xml_cannot_hold_are_drawn(links: QueryGraph) -> None:
    """The renderer of charts aborts the process at them."""
    graph = replace(links, prompt="\x00 \uffff of\ud800", tokens=("\x00", " \uffff", " of\ud800"))
    page = graph._repr_html_()
    assert "\uffff" not in page
    picture = svg({"mark": "point", "title": "a\x00\uffff\ud800b", "data": {"values": []}}, "odd")
    assert r"a\u0000\uffff\ud800b" in picture
