"""`mnemoscope neuron NAME --examples`: output, refusals, files, and the cache."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

import mnemoscope as ms
from command_line import printed, refused
from mnemoscope.report.terminal.vocabulary import render_examples
from mnemoscope.testing import words

TEXTS = [words(5, 17, 80, 33), words(9, 17, 41), words(*range(10, 40))]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["24.1005", "--corpus", "a.txt"], "--corpus is for --examples"),
        (["24.1005", "--window", "8"], "--window is for --examples"),
        (["24.1005", "--out", "a.json"], "--out is for --examples"),
        (["24.1005", "--examples", "--through", "25.1"], "--examples and --through exclude each other"),
        (["24.1005", "--examples", "--json", "--out", "a.json"], "--json and --out exclude each other"),
        (["24.1005", "--examples", "--out", "a.html"], "ends in .json or .csv"),
        (["24", "--examples"], "'24' names no neuron"),
        (["a24.1005", "--examples"], "'a24.1005' names no neuron"),
        (["23.4.51"], "names no neuron; write layer.neuron"),
        (["24.1005", "--examples", "--top", "0"], "--top"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str) -> None:
    assert message in refused("neuron", *arguments)


def test_a_file_that_is_no_corpus_is_told_in_one_line(llama_folder: str, tmp_path: Path) -> None:
    asked = ["neuron", "1.3", "--examples", "--model", llama_folder, "--corpus"]
    assert "No such file or directory; check the name" in refused(*asked, str(tmp_path / "none.txt"))
    assert "as a corpus: name a file that ends in .txt" in refused(*asked, "books.pdf")


@pytest.mark.parametrize("name", ["1.3", "a1.2.0", "1.2.0"])
def test_json_and_files_are_the_librarys(llama_folder: str, corpus: str, tmp_path: Path, name: str) -> None:
    asked = ["neuron", name, "--examples", "--corpus", corpus, "--top", "2", "--window", "8"]
    asked += ["--model", llama_folder]
    found = json.loads(printed(*asked, "--json"))
    result = ms.load(llama_folder).neuron_examples(name, corpus, top=2, window=8)
    assert list(found) == ["model", "revision", "dtype", "corpus", "neurons", "windows", "signs"]
    assert found["corpus"]["n_windows"] == result.corpus.n_windows == 6
    assert [row["tokens"] for row in found["windows"]] == result.windows["tokens"].tolist()
    expected = pytest.approx(result.windows["activation"].tolist(), abs=1e-6)
    assert [row["activation"] for row in found["windows"]] == expected
    for ending in ("json", "csv"):
        path = tmp_path / f"examples.{ending}"
        assert printed(*asked, "--out", str(path)) == f"saved {path}\n"
    assert json.loads((tmp_path / "examples.json").read_text(encoding="utf-8")) == found
    rows = list(csv.DictReader((tmp_path / "examples.csv").read_text(encoding="utf-8").splitlines()))
    of_windows = [row for row in rows if row["table"] == "windows"]
    assert [json.loads(row["activations"]) for row in of_windows] == [
        pytest.approx(row["activations"]) for row in found["windows"]
    ]


def test_the_cache_lists_and_removes_examples(
    llama_folder: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))
    asked = ["neuron", "1.3", "--examples", "--corpus", corpus, "--window", "8", "--model", llama_folder]
    first = printed(*asked)
    assert printed(*asked) == first
    found = json.loads(printed("cache", "--json"))
    assert found["models"] == []
    (kept,) = found["examples"]
    assert kept["kind"] == "examples"
    assert kept["source"] == f"1.3 over {corpus}"
    assert "examples of neurons" in " ".join(printed("cache").split())
    (tmp_path / "cache" / "examples-0123456789abcdef.unfinished").write_bytes(b"begun")
    assert "1 removed" in printed("cache", "--empty")
    left = [path.suffix for path in (tmp_path / "cache").iterdir()]
    assert set(left) == {".lock"}


@pytest.mark.parametrize("width", [50, 80, 100, 160])
def test_examples_keep_within_the_width(llama: ms.Model, width: int) -> None:
    result = llama.neuron_examples(["1.3", "1.2.0"], TEXTS, top=3)
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as captured:
        render_examples(result, console)
    text = captured.get()
    assert all(cell_len(line) <= width for line in text.splitlines())
    for title in ("FFN neuron 1.3", "Attention neuron 1.2.0", "Gate above 0, up below 0"):
        assert title in text
    assert text.count("Gate above 0") == 2
    best = result.windows.iloc[0]
    assert best["token"] in text
    page = result._repr_html_()
    assert "Where neurons fire" in page
    assert repr(result).startswith("<NeuronExamples of 1.3, 1.2.0 over 37 tokens of texts")
