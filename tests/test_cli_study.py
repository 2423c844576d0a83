"""`mnemoscope study` as people run it."""

from __future__ import annotations

import json
import subprocess
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from command_line import COMMAND, printed, refused, run
from mnemoscope.study.schema import TABLES

pytestmark = pytest.mark.timeout(1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All six types and all that is measured, of a few prompts, on the demo model."""
    folder = tmp_path_factory.mktemp("studies") / "quick"
    command = [*COMMAND, "study", "run", "--quick", "--workers", "2", "--out", str(folder)]
    # Two minutes on an idle machine with two cores; the tests beside this one want them too.
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "comparing relations: 100%" in done.stderr
    assert "among the 10 likeliest next tokens and likelier than the other answers" in done.stderr
    return folder


@pytest.mark.demo
def test_a_quick_study_has_every_table_of_every_type(folder: Path) -> None:
    counted = "select count(distinct relation) as n from facts where kept"
    assert printed("study", "sql", str(folder), counted, "--format", "csv") == "n\n6\n"
    each = " union all ".join(f"select '{table}' as name, count(*) as n from {table}" for table in TABLES)
    answer = json.loads(printed("study", "sql", str(folder), each, "--format", "json"))
    assert answer["columns"] == ["name", "n"]
    assert {name for name, n in answer["data"] if n > 0} == set(TABLES)


@pytest.mark.demo
def test_what_is_done_is_not_done_again(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    done = run("study", "run", "--quick", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before
    other = run("study", "run", "--quick", "--rank", "5", "--out", str(folder))
    assert other.returncode == 2
    assert "options.rank is 10 there and 5 here" in other.stderr.splitlines()[-1]


@pytest.mark.demo
def test_value_neurons_matter_more_than_random_ones(folder: Path) -> None:
    query = (
        "select experiment, parts, avg(log_probability) as log_p from outcomes "
        "where experiment in ('none', 'value_neurons') group by all"
    )
    answer = pd.read_csv(StringIO(printed("study", "sql", str(folder), query, "--format", "csv")))
    log_p = answer.set_index("parts")["log_p"]
    assert log_p["value neurons"] < log_p["random, same layers"] - 1


@pytest.mark.demo
def test_report_and_export(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "quick.html"
    assert "written" in run("study", "report", str(folder), "--out", str(page)).stderr
    assert "What zeroing each method's neurons does" in page.read_text(encoding="utf-8").replace("&#39;", "'")
    done = run("study", "export", str(folder), str(tmp_path / "tables"), "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tables" / "01_methods.csv").exists()
    editing = json.loads((tmp_path / "tables" / "editing.json").read_text())
    assert set(editing["relations"]) == {"language", "capital", "country", "color", "number", "month"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rank", "0"), "rank is 0"),
        (("--head-share", "2"), "head_share is 2"),
        (("--address", "auto"), "--engine ray"),
        (("--only", "color", "--only", "shape"), "shape"),
        (("--strict",), "--strict is about facts of a file"),
        (("--facts", "missing.jsonl"), "missing.jsonl"),
        (("--workers", "0"), "workers is 0"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = tmp_path / "study"
    assert message in refused("study", "run", "--out", str(out), *arguments)
    assert not out.exists()


@pytest.mark.parametrize(
    "command", [("sql", "FOLDER", "select 1"), ("report", "FOLDER"), ("export", "FOLDER", "OUT")]
)
def test_a_folder_without_a_study_is_told(command: tuple[str, ...], tmp_path: Path) -> None:
    places = {"FOLDER": str(tmp_path), "OUT": str(tmp_path / "out")}
    assert "there is no study in" in refused("study", *(places.get(word, word) for word in command))
    assert not (tmp_path / "out").exists()
