"""Names of parts in tables are those of the parts that a table's rows become."""

from __future__ import annotations

import pandas as pd
import pytest

from mnemoscope.results.columns import records
from mnemoscope.results.parts import listed, row_name

_MISSING = pd.DataFrame({"neuron": [7, None, None], "head": [None, 4, 4], "dim": [None, 51, None]})


@pytest.mark.parametrize(
    "numbers",
    [
        {"neuron": [7], "position": [3]},
        {"head": [4], "dim": [51], "position": [3]},
        {"head": [4]},
        {"kind": ["ffn", "attention", "head"], **_MISSING.fillna(-1).astype("int64")},
        {"kind": ["ffn", "attention", "head"], **_MISSING.astype("Int64")},
    ],
    ids=["neurons", "attention neurons", "heads", "nodes with -1", "nodes with missing numbers"],
)
def test_rows_have_the_names_of_their_parts(numbers: dict[str, list[int]]) -> None:
    table = pd.DataFrame({"layer": 24, **numbers})
    assert [row_name(row) for row in records(table)] == [part.name for part in listed(table)]


def test_a_row_without_numbers_has_no_name() -> None:
    assert row_name({"layer": pd.NA, "neuron": pd.NA, "kind": "embeddings"}) == ""
