"""`mnemoscope links` as people and scripts meet it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import networkx
import pytest

from command_line import printed, refused
from mnemoscope.testing import words

PROMPT = "The capital of Japan is the city of"
LINKS = ["links", PROMPT, "--target", " Tokyo"]
FEW = ["--values", "2", "--width", "3"]
SMALL = [*LINKS, *FEW]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "a.txt"], "ends in .json, .csv or .graphml"),
        (["--out", "no-such-folder/a.json"], "create the folder no-such-folder"),
        (["--json", "--out", "a.json"], "--json and --out"),
        (["--target-id", "3"], "--target and --target-id"),
        (["--depth", "0"], "--depth is 0; give 1 or more"),
        (["--values", "0"], "--values is 0; give 1 or more"),
        (["--width", "-2"], "--width is -2; give 1 or more"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str) -> None:
    assert message in refused(*LINKS, *arguments)


@pytest.mark.demo
def test_a_target_that_cannot_follow_is_told_in_one_line() -> None:
    assert "' Tokyo'" in refused("links", PROMPT, "--target", "Tokyo")


@pytest.mark.demo
def test_draws_a_tree_for_each_value_neuron() -> None:
    text = printed(*SMALL)
    roots = re.findall(r"^([+−][0-9.]+)  (\w+ [0-9.]+) at \d ", text, re.MULTILINE)
    assert [name for _, name in roots][:1] == ["ffn 24.1005"]
    assert len(roots) == 4
    assert roots == sorted(roots, key=lambda root: -float(root[0].replace("−", "-")))
    # Two steps back: links of the value neurons, and links of those.
    assert re.search(r"^├── +[+−][0-9.]+ %  [+−][0-9.]+  \w+ [0-9.]+ ", text, re.MULTILINE)
    assert re.search(r"^│   └── +[+−][0-9.]+ %  ", text, re.MULTILINE)
    assert not re.search(r"^(?:│   |    ){2}[├└]", text, re.MULTILINE)
    assert "weights of attention and of norms are held fixed" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_json_and_files_hold_the_same_graph(tmp_path: Path, llama_folder: str) -> None:
    links = ["links", words(5, 17, 80, 33), "--target", " w40", "--model", llama_folder, *FEW]
    found = json.loads(printed(*links, "--json"))
    asked = ["model", "revision", "prompt", "tokens", "target", "targets"]
    assert list(found) == [*asked, "explained", "nodes", "edges"]
    value_neurons = [node for node in found["nodes"] if node["depth"] == 0]
    assert len(value_neurons) == 4
    assert {node["kind"] for node in value_neurons} == {"ffn", "attention"}
    for ending in ("json", "graphml"):
        path = tmp_path / f"graph.{ending}"
        assert printed(*links, "--out", str(path)) == f"saved {path}\n"
    assert json.loads((tmp_path / "graph.json").read_text(encoding="utf-8")) == found
    graph = networkx.read_graphml(tmp_path / "graph.graphml")
    assert {name: dict(graph.nodes[name]) for name in graph} == {
        node["id"]: {name: value for name, value in node.items() if name != "id"} for node in found["nodes"]
    }
    assert {(source, target): edge["score"] for source, target, edge in graph.edges(data=True)} == {
        (edge["source"], edge["target"]): edge["score"] for edge in found["edges"]
    }
