"""`mnemoscope study` as people run it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from command_line import printed, refused, run
from mnemoscope.study.columns import TABLES
from mnemoscope.study.items import ITEMS
from mnemoscope.testing import trained_model

pytestmark = [pytest.mark.process, pytest.mark.timeout(1000)]
DEMO = pytest.param("demo", marks=[pytest.mark.demo, pytest.mark.nightly])


@dataclass(frozen=True)
class Finished:
    """A study that was run from the command line: its folder, its command, its relations."""

    folder: Path
    command: tuple[str, ...]
    relations: set[str]


@pytest.fixture(scope="module", params=["trained", DEMO])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study of a tiny trained model's facts, or of a few prompts of the demo model."""
    folder = tmp_path_factory.mktemp("studies")
    if request.param == "demo":
        options = ("--quick", "--workers=2")
        relations = {"language", "capital", "country", "color", "number", "month"}
    else:
        options = _trained(folder)
        relations = {"relation 0", "relation 1", "relation 2"}
    command = ("study", "run", *options, "--out", str(folder / "study"))
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "comparing relations: 100%" in done.stderr
    assert "among the 10 likeliest next tokens and likelier than the other answers" in done.stderr
    return Finished(folder / "study", command, relations)


def _trained(folder: Path) -> tuple[str, ...]:
    """Write a tiny model and the facts that it learned; the options that name both."""
    trained = trained_model(n_facts=12)
    for part in (trained.model, trained.tokenizer):
        part.save_pretrained(folder / "model")
    lines = [
        {"prompt": fact.prompt, "target": fact.target, "relation": f"relation {n % 3}", "subject": f"s{n}"}
        for n, fact in enumerate(trained.facts)
    ]
    (folder / "facts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sizes = ("--controls=1", "--summed=1", "--read=1", "--attention-neurons=40", "--ffn-neurons=20")
    return (f"--model={folder / 'model'}", f"--facts={folder / 'facts.jsonl'}", *sizes)


def test_every_table_has_rows_and_every_relation_its_facts(study: Finished) -> None:
    counted = "select count(distinct relation) as n from facts where kept"
    answer = printed("study", "sql", str(study.folder), counted, "--format", "csv")
    assert answer == f"n\n{len(study.relations)}\n"
    each = " union all ".join(f"select '{table}' as name, count(*) as n from {table}" for table in TABLES)
    answer = json.loads(printed("study", "sql", str(study.folder), each, "--format", "json"))
    assert answer["columns"] == ["name", "n"]
    assert {name for name, n in answer["data"] if n > 0} == set(TABLES)


def test_an_answer_as_json_is_not_rounded(study: Finished) -> None:
    query = (
        "select 1e-20 as small, 0.1::float as single, 'inf'::double as above, null as nothing, "
        "date '2020-01-02' as day, '\\xAA'::blob as bytes, [1, 2] as both, "
        "'3f2504e0-4f89-11d3-9a0c-0305e82c3301'::uuid as id"
    )
    answer = json.loads(printed("study", "sql", str(study.folder), query, "--format", "json"))
    (row,) = (dict(zip(answer["columns"], row, strict=True)) for row in answer["data"])
    assert row["small"] == 1e-20
    assert row["single"] == pytest.approx(0.1, rel=1e-7)
    assert row["above"] == "Infinity"
    assert row["nothing"] is None
    assert row["day"].startswith("2020-01-02")
    assert (row["bytes"], row["both"]) == ("aa", [1, 2])
    assert row["id"] == "3f2504e0-4f89-11d3-9a0c-0305e82c3301"


def test_what_is_done_is_not_done_again(study: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.folder.rglob("*.parquet")}
    done = run(*study.command)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in study.folder.rglob("*.parquet")} == before
    other = run(*study.command, "--rank", "5")
    assert other.returncode == 2
    assert "options.rank is 10 there and 5 here" in other.stderr.splitlines()[-1]


def test_value_neurons_matter_more_than_random_ones(study: Finished) -> None:
    query = (
        "select experiment, parts, avg(log_probability) as log_p from outcomes "
        "where experiment in ('none', 'value_neurons') group by all"
    )
    answer = pd.read_csv(StringIO(printed("study", "sql", str(study.folder), query, "--format", "csv")))
    log_p = answer.set_index("parts")["log_p"]
    assert log_p["value neurons"] < log_p["random, same layers"] - 1


def test_report_and_export(study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The page of every item is that of tests/report/test_study_report.
    monkeypatch.setattr("mnemoscope.report.study_html.ITEMS", ITEMS[:2])
    page = tmp_path / "page.html"
    assert "written" in run("study", "report", str(study.folder), "--out", str(page)).stderr
    assert "The target after each method's neurons are zeroed" in page.read_text(encoding="utf-8").replace(
        "&#39;", "'"
    )
    done = run("study", "export", str(study.folder), str(tmp_path / "tables"), "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tables" / "01_methods.csv").exists()
    editing = json.loads((tmp_path / "tables" / "editing.json").read_text())
    assert set(editing["relations"]) == study.relations


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
