"""Sentences on a study, made of its tables alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from mnemoscope.report.text import plain_number, signed
from mnemoscope.report.theme import KINDS
from mnemoscope.study.bootstrap import ALL
from mnemoscope.study.columns import SAME_LAYERS


def study_findings(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return up to six sentences: facts, layers, heads, value and query neurons, shared neurons.

    Args:
        tables: the items' tables by name.
    """
    found = [
        _facts(tables["facts_kept"]),
        _layers(tables["value_layers"]),
        _zeroed(tables["value_zeroed"], "value neurons"),
        _zeroed(tables["query_zeroed"], "query neurons"),
        _heads(tables["heads_within_and_across"]),
        _shared(tables["shared"]),
    ]
    return [sentence for sentence in found if sentence]


def _facts(table: pd.DataFrame) -> str:
    whole = table.loc[table["relation"] == ALL].iloc[0]
    n_relations = int((table["relation"] != ALL).sum())
    return (
        f"The model knows {whole['n_kept']:,} of {whole['n_tried']:,} prompts; {whole['n_facts']:,} facts of "
        f"{n_relations} relation{'s' * (n_relations != 1)} are measured."
    )


def _interval(row: pd.Series[Any], name: str, unit: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    ends = "" if math.isnan(low) or math.isnan(high) else f" [{plain_number(low)}, {plain_number(high)}]"
    return f"{plain_number(row[name])} {unit}{ends}"


def _layers(table: pd.DataFrame) -> str:
    rows = table.loc[table["relation"] == ALL].sort_values("score", ascending=False, kind="stable")
    if rows.empty:
        return ""
    named = [
        f"{KINDS[row['kind']]} {row['layer']} ({signed(row['score'])} nats)"
        for _, row in rows.head(3).iterrows()
    ]
    return f"The layers that raise the targets most on average: {', '.join(named)}."


def _zeroed(table: pd.DataFrame, parts: str) -> str:
    rows = table.loc[table["relation"] == ALL].set_index("parts") if len(table) else table
    if parts not in rows.index or SAME_LAYERS not in rows.index:
        return ""
    own, control = rows.loc[parts], rows.loc[SAME_LAYERS]
    return (
        f"With a fact's {own['n_neurons']:,.0f} {parts} zeroed the MRR falls by "
        f"{_interval(own, 'mrr_drop_percent', '%')}; with random neurons of the same layers by "
        f"{_interval(control, 'mrr_drop_percent', '%')}."
    )


def _heads(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    falls = [
        f"{_interval(row, 'mrr_drop_percent', '%')} with heads {row['heads']}" for _, row in table.iterrows()
    ]
    return f"The MRR falls by {'; by '.join(falls)} zeroed.".replace("heads random", "random heads")


def _shared(table: pd.DataFrame) -> str:
    rows = table.loc[table["list"] == "value"]
    rows = rows.loc[rows["share_percent"].notna()]
    if rows.empty:
        return ""
    low, high = (plain_number(end) for end in (rows["share_percent"].min(), rows["share_percent"].max()))
    share = low if low == high else f"{low} to {high}"
    most = float(rows["by_chance_percent"].max())
    chance = "below 0.1 %" if most < 0.1 else f"at most {plain_number(most)} %"
    return f"Most facts of a relation share {share} % of a fact's value neurons; chance gives {chance}."
