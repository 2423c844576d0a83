"""A study can be read while it runs, with our tables or anybody's tools, and queries reach nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pandas as pd
import polars
import pytest

from made_study import KEPT, made_study, made_tables
from mnemoscope.errors import OptionError, OutputError
from mnemoscope.study.columns import TABLES
from mnemoscope.study.results import Studies, Study
from mnemoscope.study.store import SCHEMA_VERSION, Store


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.open(made_study(tmp_path / "one"))


def test_every_table_has_its_columns_and_rows(study: Study) -> None:
    for name, rows in made_tables().items():
        table = study.table(name)
        assert list(table) == TABLES[name].schema.names, name
        assert len(table) == len(rows), name
    assert list(study.known["fact"]) == list(KEPT)
    assert study.table("value_neurons")["neuron"].dtype == "Int32"
    assert study.unfinished == ""


def test_opens_in_polars_and_duckdb_without_us(study: Study) -> None:
    shards = study.folder / "tables" / "facts" / "*.parquet"
    assert polars.read_parquet(shards)["fact"].sort().to_list() == [1, 2, 3, 4, 5, 6]
    assert duckdb.sql(f"select count(*) from '{shards}' where kept").fetchall() == [(5,)]


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        (("outcomes",), "0 of 4 known facts are measured"),
        (("sums",), "the sums of all neurons are not all there"),
        (("readings",), "the neurons in vocabulary space are not all there"),
    ],
)
def test_says_what_an_unfinished_study_lacks(tmp_path: Path, left_out: tuple[str, ...], words: str) -> None:
    study = Study.open(made_study(tmp_path / "one", leave_out=left_out))
    assert study.unfinished == f"unfinished: {words}"
    assert list(study.table(left_out[0])) == TABLES[left_out[0]].schema.names


def test_is_read_while_it_is_written(tmp_path: Path) -> None:
    folder = made_study(tmp_path / "one")
    manifest = json.loads((folder / "manifest.json").read_text())["manifest"]
    with Store.open(folder, manifest):
        assert len(Study.open(folder).table("facts")) == 6


def test_answers_queries(study: Study) -> None:
    found = study.sql("select relation, count(*) as n from facts where kept group by all order by all")
    assert found.to_dict("list") == {"relation": ["capital", "color"], "n": [3, 2]}
    both = study.sql("select count(*) as n from heads join facts using (fact)")
    assert both["n"].item() == 20
    assert study.sql("pivot facts on relation using count(*) group by kept").shape == (2, 3)


def test_a_table_without_rows_is_an_empty_view(tmp_path: Path) -> None:
    study = Study.open(made_study(tmp_path / "one", leave_out=("sums",)))
    found = study.sql("select * from sums")
    assert list(found) == TABLES["sums"].schema.names
    assert found.empty


@pytest.mark.parametrize(
    "query",
    [
        "selec 1",
        "select nothing from facts",
        "",
        "-- a remark",
        "select * from secret",
        "select * from read_csv('{folder}/secret.csv')",
        "from '{folder}/secret.csv'",
        "select * from read_text('{folder}/one/manifest.json')",
        "copy facts to '{folder}/new.csv'",
        "explain analyze copy facts to '{folder}/new.csv'",
        "attach '{folder}/new.db'",
        "export database '{folder}/new'",
        "install httpfs",
        "set enable_external_access = true",
    ],
)
def test_a_query_reaches_nothing_but_the_study(study: Study, query: str) -> None:
    folder = study.folder.parent
    secret = pd.DataFrame({"word": ["sesame"]})  # a variable that DuckDB would find by its name
    secret.to_csv(folder / "secret.csv")
    with pytest.raises(OptionError, match=r"^[^\n]+$"):
        study.sql(query.format(folder=folder))
    assert sorted(path.name for path in folder.iterdir()) == ["one", "secret.csv"]


def test_a_damaged_shard_is_told(study: Study) -> None:
    path = study.folder / "tables" / "facts" / "a-000000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OutputError, match="damaged"):
        study.table("facts")
    with pytest.raises(OptionError, match="cannot answer"):
        study.sql("select * from facts")


def test_one_query_asks_two_studies(tmp_path: Path) -> None:
    made_study(tmp_path / "one")
    made_study(tmp_path / "it's two", model="other", leave_out=("heads",))
    studies = Studies.open([tmp_path / "one", tmp_path / "it's two"])
    found = studies.sql("select study, count(*) as n from facts where kept group by all order by study")
    assert found.to_dict("list") == {"study": ["it's two", "one"], "n": [5, 5]}
    assert studies.sql("select distinct study from heads")["study"].to_list() == ["one"]
    with pytest.raises(OptionError, match="two of the studies' folders are named 'one'"):
        Studies.open([tmp_path / "one", tmp_path / "one"])


def test_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no study in"):
        Study.open(tmp_path)
    folder = made_study(tmp_path / "one")
    manifest = folder / "manifest.json"
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**document, "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(OutputError, match="a newer Mnemoscope wrote it"):
        Study.open(folder)
    manifest.write_text(json.dumps({**document, "manifest": {"kind": "comparison of methods"}}))
    with pytest.raises(OutputError, match=r"there is no study in .*, but a comparison of methods"):
        Study.open(folder)
    with pytest.raises(OptionError, match="no table 'nothing'"):
        Study.open(made_study(tmp_path / "two")).table("nothing")
