"""Tables for others: the paper's own numbers beside ours, and parts of each relation to edit."""

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
# As many as MEMIT's hyper-parameters usually name.
N_LAYERS = 5
CAUTION = (
    "Where a fact is located need not be where editing it works best (Hase et al. 2023): try other layers "
    "too, and measure the edit, its generalisation and what else it changes."
)


def editing(study: Study) -> dict[str, Any]:
    """The document that `editing.json` holds; `docs/studies_tables.md` has its schema.

    Layers are those with the highest mean scores above 0 over the relation's facts, in their order in the
    model; heads those that the study zeroed, best first; neurons those in the lists of more than half of the
    facts, most shared first.
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
    """One number of the paper.

    Attributes:
        item: which of the eleven it belongs to.
        what: in words.
        mrr: MRR, or its fall in percent where `what` says so; None if the paper gives none.
        probability_percent: the same of the probability; of item 10 the share of the neurons.
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
_GPT2_LARGE = (
    (0.361, 7.1),
    (0.201, 3.4),
    (0.214, 3.6),
    (0.219, 3.7),
    (0.363, 7.1),
    (0.439, 8.6),
    (0.306, 5.8),
    (0.394, 8.1),
    (0.232, 4.0),
)
_LLAMA_7B = (
    (0.551, 21.5),
    (0.312, 9.2),
    (0.339, 10.8),
    (0.345, 10.0),
    (0.549, 21.3),
    (0.529, 22.9),
    (0.493, 18.1),
    (0.523, 22.6),
    (0.389, 13.0),
)


def _methods(numbers: tuple[tuple[float, float], ...]) -> tuple[Published, ...]:
    return tuple(Published(1, what, *pair) for what, pair in zip(_METHODS, numbers, strict=True))


PUBLISHED = {
    "gpt2-large": (
        *_methods(_GPT2_LARGE),
        Published(5, "fall, heads of the same type (%)", 44.5, 53.3),
        Published(5, "fall, heads of unrelated types (%)", 7.1, 9.5),
        Published(6, "fall, 200 attention + 100 FFN value neurons (%)", 96.3, 99.2),
        Published(6, "fall, random neurons (%)", 0.22, 0.14),
        Published(8, "fall, 1,000 shallow FFN query neurons (%)", 92.0, 95.0),
        Published(10, "value neurons in more than half of the sentences (%)", None, 27.6),
        Published(10, "query neurons in more than half of the sentences (%)", None, 15.7),
    ),
    "llama-7b": (
        *_methods(_LLAMA_7B),
        Published(6, "fall, 200 attention + 100 FFN value neurons (%)", 96.9, 99.6),
        Published(8, "fall, 1,000 shallow FFN query neurons (%)", 87.0, 95.0),
        Published(10, "value neurons in more than half of the sentences (%)", None, 14.1),
        Published(10, "query neurons in more than half of the sentences (%)", None, 5.2),
    ),
}


def published(model: str) -> tuple[Published, ...]:
    """The paper's numbers for a model of that name; none for another model."""
    name = model.rstrip("/").rsplit("/", 1)[-1].lower().removesuffix("-hf")
    return PUBLISHED.get(name, ())
