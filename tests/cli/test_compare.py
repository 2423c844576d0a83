"""`mnemoscope compare`: what it prints, what it refuses, and its files."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

import mnemoscope as ms
from command_line import printed, refused, run
from mnemoscope.report.terminal.comparison import render_comparison
from mnemoscope.testing import words

A, B = words(5, 17, 80, 33), words(9, 17, 41)
TARGETS = ["--target-a", " w40", "--target-b", " w41"]
JAPAN, CHINA = (f"The capital of {name} is the city of" for name in ("Japan", "China"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([A], "missing argument"),
        ([A, B, "--json", "--out", "a.json"], "--json and --out exclude each other"),
        ([A, B, "--out", "a.parquet"], "ends in .json, .csv or .html"),
        ([A, B, "--report", "a.json"], "ends in .html"),
        ([A, B, "--top", "0"], "--top"),
        ([A, B, "--chat", "--no-special-tokens"], "--chat and --no-special-tokens exclude each other"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str) -> None:
    assert message in refused("compare", *arguments).lower()


def test_json_and_files_are_the_librarys(llama_folder: str, tmp_path: Path) -> None:
    asked = ["compare", A, B, *TARGETS, "--against-b", " w42", "--top", "3", "--model", llama_folder]
    found = json.loads(printed(*asked, "--json"))
    opened = ms.load(llama_folder)
    result = opened.compare(A, B, target_a=" w40", target_b=" w41", against_b=" w42", top=3)
    assert found["a"]["target"]["text"] == "w40"
    assert found["b"]["target"] is None
    tables = list(result.tables())
    fields = ["model", "revision", "dtype", "a", "b", "tolerance", "unlisted"]
    assert list(found) == [*fields, *tables]
    for name, table in result.tables().items():
        assert [row["diff"] for row in found[name]] == pytest.approx(table["diff"].tolist(), abs=1e-6)
    for ending in ("json", "csv"):
        path = tmp_path / f"compared.{ending}"
        assert printed(*asked, "--out", str(path)) == f"saved {path}\n"
    assert json.loads((tmp_path / "compared.json").read_text(encoding="utf-8")) == found
    rows = list(csv.DictReader((tmp_path / "compared.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["table"] for row in rows] == [name for name in tables for _ in found[name]]


def test_a_report_comes_beside_the_tables(llama_folder: str, tmp_path: Path) -> None:
    page = tmp_path / "compared.html"
    done = run("compare", A, B, *TARGETS, "--top", "3", "--model", llama_folder, "--report", str(page))
    assert done.returncode == 0
    assert "Diff" in done.stdout
    assert f"saved {page}\n" in done.stderr
    assert "in A and" in page.read_text(encoding="utf-8")
    assert llama_folder not in page.read_text(encoding="utf-8")


@pytest.mark.demo
@pytest.mark.nightly  # on each push a tiny model, below and in tests/attribution/test_comparison
def test_the_terminal_shows_a_b_and_their_difference() -> None:
    done = run("compare", JAPAN, CHINA, "--target-a", " Tokyo", "--target-b", " Beijing")
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^layer\.neuron +A +B +Diff +promotes$", done.stdout, re.MULTILINE)
    assert len(found) == 1
    row = re.search(r"^24\.1005 +([+−][0-9.]+) +([+−][0-9.]+) +([+−][0-9.]+) ", done.stdout, re.MULTILINE)
    assert row is not None
    a, b, difference = (float(number.replace("−", "-")) for number in row.groups())
    assert difference == pytest.approx(b - a, abs=2e-3)
    assert a == pytest.approx(2.067, abs=2e-3)  # the score of attribute, as in its golden file
    assert re.search(r"The first \d+ FFN neurons lead the ranking of all by Diff", done.stdout)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_comparison_keeps_within_the_width(llama: ms.Model, width: int) -> None:
    result = llama.compare(A, B, target_a=40, target_b=41, top=5)
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as captured:
        render_comparison(result, console)
    assert all(cell_len(line) <= width for line in captured.get().splitlines())
    page = result._repr_html_()
    assert page.count("Diff (nats)") == 3
    assert "A: w40 after" in page.replace("␣", "")
    assert repr(result).startswith("<PromptComparison by B - A\n  A: 'w40' after")
