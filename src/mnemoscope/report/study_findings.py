"""Sentences on a study, made of its tables alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd

from mnemoscope.report.text import plain_number, signed
from mnemoscope.report.theme import KINDS
from mnemoscope.results.columns import records
from mnemoscope.study.bootstrap import ALL
from mnemoscope.study.columns import RANDOM, SAME_LAYERS


def study_findings(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return up to six sentences: facts, layers, heads, value and query neurons, shared neurons.

    Args:
        tables: the items' tables by name.
    """
    about: dict[str, Callable[[pd.DataFrame], str]] = {
        "facts_kept": _facts,
        "value_layers": _layers,
        "value_zeroed": partial(_zeroed, parts="value neurons"),
        "query_zeroed": partial(_zeroed, parts="query neurons"),
        "heads_within_and_across": _heads,
        "shared": _shared,
    }
    found = [sentence(tables[name]) for name, sentence in about.items() if name in tables]
    return [sentence for sentence in found if sentence]


Row = dict[str, Any]


def _of_all(table: pd.DataFrame) -> list[Row]:
    return [row for row in records(table) if row["relation"] == ALL]


def _facts(table: pd.DataFrame) -> str:
    (whole,) = _of_all(table)
    n_relations = len(table) - 1
    return (
        f"The model knows {whole['n_kept']:,} of {whole['n_tried']:,} prompts; {whole['n_facts']:,} facts of "
        f"{n_relations} relation{'s' * (n_relations != 1)} are measured."
    )


def _changes(row: Row) -> str:
    """Write what the MRR does, with its interval: `falls by 51 % [48, 54]`."""
    mean, low, high = (row[f"mrr_drop_percent{end}"] for end in ("", "_low", "_high"))
    if mean < 0:
        mean, low, high = -mean, -high, -low
    ends = "" if math.isnan(low) or math.isnan(high) else f" [{plain_number(low)}, {plain_number(high)}]"
    return f"{'rises' if row['mrr_drop_percent'] < 0 else 'falls'} by {plain_number(mean)} %{ends}"


def _layers(table: pd.DataFrame) -> str:
    rows = sorted(_of_all(table), key=lambda row: -row["score"])[:3]
    named = [f"{KINDS[row['kind']]} {row['layer']} ({signed(row['score'])} nats)" for row in rows]
    return f"The layers that raise the targets most on average: {', '.join(named)}." if named else ""


def _zeroed(table: pd.DataFrame, parts: str) -> str:
    rows = {row["parts"]: row for row in (_of_all(table) if len(table) else ())}
    if not {parts, SAME_LAYERS} <= set(rows):
        return ""
    return (
        f"With a fact's {rows[parts]['n_neurons']:,.0f} {parts} zeroed the MRR "
        f"{_changes(rows[parts])}; with random neurons of the same layers it {_changes(rows[SAME_LAYERS])}."
    )


def _heads(table: pd.DataFrame) -> str:
    changes = [
        f"{_changes(row)} with " + ("random heads" if row["heads"] == RANDOM else f"heads {row['heads']}")
        for row in records(table)
    ]
    return f"The MRR {'; it '.join(changes)} zeroed." if changes else ""


def _shared(table: pd.DataFrame) -> str:
    rows = [row for row in records(table) if row["list"] == "value" and not math.isnan(row["share_percent"])]
    if not rows:
        return ""
    shares = [row["share_percent"] for row in rows]
    low, high = plain_number(min(shares)), plain_number(max(shares))
    most = max(row["by_chance_percent"] for row in rows)
    chance = "less than 0.1 %" if most < 0.1 else f"at most {plain_number(most)} %"
    share = low if low == high else f"{low} to {high}"
    return (
        f"Of a fact's value neurons {share} % (by relation) are value neurons of more than half of the "
        f"relation's facts; by chance {chance} would be."
    )
