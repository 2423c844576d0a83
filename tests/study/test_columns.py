"""The tables on disk are those that are described, and open without us."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from mnemoscope.study.columns import HEADS, TABLES

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_written_from_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    sys.modules.pop("make_schema", None)
    import make_schema

    assert make_schema.PAGE.read_text(encoding="utf-8") == make_schema.page()


def test_the_same_rows_are_the_same_bytes_in_the_order_of_the_schema(tmp_path: Path) -> None:
    rows = pd.DataFrame({"score": [0.5, -1.0], "head": [3, 4], "layer": [0, 1], "fact": [7, 7], "more": 1})
    path = tmp_path / "heads.parquet"
    path.write_bytes(HEADS.encode(rows))
    assert HEADS.encode(rows[::-1][::-1]) == path.read_bytes()
    found = pd.read_parquet(path)
    assert list(found.columns) == ["fact", "layer", "head", "score"]
    assert found["score"].dtype == "float32"


def test_a_table_without_a_column_is_no_table() -> None:
    with pytest.raises(KeyError, match="head"):
        HEADS.encode(pd.DataFrame({"fact": [1], "layer": [0], "score": [0.0]}))


def test_every_column_is_described() -> None:
    for table in TABLES.values():
        assert table.meaning
        assert all(column.meaning for column in table.columns)
