"""Heads and neurons of each relation, chosen from the measurements of its facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope.study.columns import FACT, FACTS, HEADS, QUERY_NEURONS, VALUE_NEURONS
from mnemoscope.study.filter import to_measure
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.store import read_table


def relation_heads(folder: Path, options: StudyOptions) -> dict[str, list[tuple[int, int]]]:
    """Return (layer, head) of the heads with the highest mean score of each relation, `head_share` of all."""
    heads = read_table(folder, HEADS.name).merge(_relations(folder), on=FACT)
    found = {}
    for relation, group in heads.groupby("relation", sort=True):
        means = group.groupby(["layer", "head"], as_index=False).agg({"score": "mean"})
        best = means.sort_values(by="score", ascending=False, kind="stable")
        best = best.head(ceil(options.head_share * len(means)))
        found[str(relation)] = list(zip(best["layer"].tolist(), best["head"].tolist(), strict=True))
    return found


def most_listed_neurons(folder: Path, options: StudyOptions) -> Iterator[list[dict[str, Any]]]:
    """Yield each relation's most frequently listed neurons, as rows of `READINGS` without tokens."""
    known = _relations(folder)
    values = read_table(folder, VALUE_NEURONS.name).merge(known, on=FACT)
    queries = read_table(folder, QUERY_NEURONS.name)
    lists = {
        "attention_value": values.query("kind == 'attention'"),
        "ffn_value": values.query("kind == 'ffn'"),
    }
    if not queries.empty:
        lists["ffn_query"] = queries.merge(known, on=FACT)
    for relation, n_facts in sorted(Counter(known["relation"].tolist()).items()):
        rows = []
        for name, table in lists.items():
            rows += _most_listed(table.query("relation == @relation"), name, n_facts, options.read)
        yield [{"relation": relation, **row} for row in rows]


def _relations(folder: Path) -> pd.DataFrame:
    """Return number and relation of the known facts."""
    return to_measure(read_table(folder, FACTS.name)).filter([FACT, "relation"])


def _most_listed(table: pd.DataFrame, name: str, n_facts: int, most: int) -> list[dict[str, Any]]:
    names = ["layer", "head", "dim"] if name == "attention_value" else ["layer", "neuron"]
    measures = [column for column in ("score", "coefficient") if column in table]
    # A neuron listed at several positions counts once a fact, its scores added up.
    of_facts = table.groupby([FACT, *names], as_index=False).agg(dict.fromkeys(measures, "sum"))
    found = of_facts.groupby(names, as_index=False).agg({**dict.fromkeys(measures, "mean"), FACT: "count"})
    found = found.rename(columns={FACT: "n_facts"})
    found = found.sort_values(by=["n_facts", "score"], ascending=False, kind="stable").head(most)
    return [
        {
            "list": name,
            "place": place,
            "layer": int(row["layer"]),
            **{column: int(row[column]) if column in names else None for column in ("neuron", "head", "dim")},
            "n_facts": int(row["n_facts"]),
            "share": row["n_facts"] / n_facts,
            "mean_score": row["score"],
            "mean_coefficient": row.get("coefficient"),
        }
        for place, row in enumerate(found.to_dict("records"), 1)
    ]
