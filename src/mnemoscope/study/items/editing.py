"""The document `editing.json`: layers, heads and neurons of each relation, for tools that edit models."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mnemoscope.study.bootstrap import relations_of
from mnemoscope.study.items.layers import heads, query_layers, value_layers
from mnemoscope.study.items.sharing import shared_neurons
from mnemoscope.study.results import Study

FORMAT = "mnemoscope editing"
VERSION = 1
N_LAYERS = 5  # as in MEMIT's usual hyper-parameters
CAUTION = (
    "Where a fact is located need not be where editing it works best (Hase et al. 2023): try other layers "
    "too, and measure the edit, its generalisation and what else it changes."
)


def editing(study: Study) -> dict[str, Any]:
    """Return the document `editing.json`; `docs/studies_tables.md` has its schema.

    Layers are those with the highest mean scores above 0, in the order of the model; heads those that the
    study ablated, best first; neurons those that more than half of the facts list, most shared first.
    """
    values, queries = value_layers(study), query_layers(study)
    head, neurons = heads(study), shared_neurons(study)
    found = {}
    for relation in relations_of(study):
        value = values.loc[values["relation"] == relation]
        query = queries.loc[queries["relation"] == relation]
        own_heads = head.loc[(head["relation"] == relation) & head["zeroed"]].sort_values("place")
        own = neurons.loc[neurons["relation"] == relation]
        found[relation] = {
            "n_facts": int((study.known["relation"] == relation).sum()),
            "layers": _best_layers(value.loc[value["kind"] == "ffn"]),
            "attention_layers": _best_layers(value.loc[value["kind"] == "attention"]),
            "query_layers": _best_layers(
                query.loc[(query["kind"] == "ffn") & (query["activates"] == "attention")]
            ),
            "heads": _numbers(own_heads, "layer", "head"),
            "ffn_neurons": _numbers(_listed(own, "value", "ffn"), "layer", "neuron"),
            "attention_neurons": _numbers(_listed(own, "value", "attention"), "layer", "head", "dim"),
            "query_neurons": _numbers(_listed(own, "query", "ffn"), "layer", "neuron"),
        }
    about = {name: study.manifest[name] for name in ("model", "revision", "architecture", "n_layers")}
    return {"format": FORMAT, "version": VERSION, "caution": CAUTION, **about, "relations": found}


def _best_layers(table: pd.DataFrame) -> list[int]:
    best = table.loc[table["score"] > 0].sort_values("score", ascending=False, kind="stable").head(N_LAYERS)
    return sorted(map(int, best["layer"]))


def _numbers(table: pd.DataFrame, *columns: str) -> list[list[int]]:
    return [list(map(int, row)) for row in table.loc[:, list(columns)].itertuples(index=False, name=None)]


def _listed(table: pd.DataFrame, which: str, kind: str) -> pd.DataFrame:
    return table.loc[(table["list"] == which) & (table["kind"] == kind)]
