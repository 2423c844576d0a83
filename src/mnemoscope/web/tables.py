"""Results as one long table of text, and how much memory they take."""

from __future__ import annotations

import pandas as pd

from mnemoscope.attribution.continuation import SUMS, ContinuationAttribution
from mnemoscope.attribution.result import Attribution
from mnemoscope.view.json_text import json_text


def csv_bytes(result: Attribution | ContinuationAttribution) -> bytes:
    """Every table in one, the name of each row's table in the column `table`; lists of tokens as JSON."""
    tables = [table.assign(table=name) for name, table in _tables(result).items() if not table.empty]
    long_table = pd.concat([_plain(table) for table in tables], ignore_index=True)
    long_table.insert(0, "table", long_table.pop("table"))
    return long_table.to_csv(index=False).encode("utf-8", "backslashreplace")


def n_bytes(result: Attribution | ContinuationAttribution) -> int:
    """Memory that the tables of a result take."""
    own = sum(int(table.memory_usage(deep=True).sum()) for table in _tables(result).values())
    inner = result.attributions if isinstance(result, ContinuationAttribution) else ()
    return own + sum(map(n_bytes, inner))


def _tables(result: Attribution | ContinuationAttribution) -> dict[str, pd.DataFrame]:
    if isinstance(result, Attribution):
        return result.tables()
    return {name: getattr(result, name) for name in SUMS}


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: table[name].map(_cell) for name in table})


def _cell(value: object) -> object:
    return json_text(value) if isinstance(value, (list, tuple)) else value
