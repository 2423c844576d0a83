"""The paper's published numbers, and the parts of each relation for tools that edit models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnemoscope.study.bootstrap import relations_of
from mnemoscope.study.items import heads
from mnemoscope.study.items.layers import query_layers, value_layers
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


@dataclass(frozen=True)
class Published:
    """A number published in the paper.

    Attributes:
        item: 1 to 11.
        what: description.
        mrr: MRR, or its fall in percent if `what` says so; None if not published.
        probability_percent: probability, or its fall; for item 10 the share of neurons.
    """

    item: int
    what: str
    mrr: float | None
    probability_percent: float | None


_METHODS = (
    "none (original)",
    "a log-probability increase",
    "b log probability",
    "c probability increase",
    "d norm",
    "e coefficient",
    "f rank",
    "g norm x coefficient",
    "h coefficient / rank",
)


def _methods(mrr: tuple[float, ...], probability: tuple[float, ...]) -> tuple[Published, ...]:
    rows = zip(_METHODS, mrr, probability, strict=True)
    return tuple(Published(1, *row) for row in rows)


PUBLISHED = {
    "gpt2-large": (
        *_methods(
            (0.361, 0.201, 0.214, 0.219, 0.363, 0.439, 0.306, 0.394, 0.232),
            (7.1, 3.4, 3.6, 3.7, 7.1, 8.6, 5.8, 8.1, 4.0),
        ),
        Published(5, "fall, heads of the same type (%)", 44.5, 53.3),
        Published(5, "fall, heads of unrelated types (%)", 7.1, 9.5),
        Published(6, "fall, 200 attention + 100 FFN value neurons (%)", 96.3, 99.2),
        Published(6, "fall, random neurons (%)", 0.22, 0.14),
        Published(8, "fall, 1,000 shallow FFN query neurons (%)", 92.0, 95.0),
        Published(10, "value neurons in more than half of the sentences (%)", None, 27.6),
        Published(10, "query neurons in more than half of the sentences (%)", None, 15.7),
    ),
    "llama-7b": (
        *_methods(
            (0.551, 0.312, 0.339, 0.345, 0.549, 0.529, 0.493, 0.523, 0.389),
            (21.5, 9.2, 10.8, 10.0, 21.3, 22.9, 18.1, 22.6, 13.0),
        ),
        Published(6, "fall, 200 attention + 100 FFN value neurons (%)", 96.9, 99.6),
        Published(8, "fall, 1,000 shallow FFN query neurons (%)", 87.0, 95.0),
        Published(10, "value neurons in more than half of the sentences (%)", None, 14.1),
        Published(10, "query neurons in more than half of the sentences (%)", None, 5.2),
    ),
}


def published(model: str) -> tuple[Published, ...]:
    """Return the paper's numbers for a model by its name, or none."""
    name = model.rstrip("/").rsplit("/", 1)[-1].lower().removesuffix("-hf")
    return PUBLISHED.get(name, ())
