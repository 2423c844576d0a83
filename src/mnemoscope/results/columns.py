"""Columns of every table of a result, in the order in which they are shown and stored.

Teacher-forced: `log p(target) = sum_t log p(token_t | prompt, tokens before)` (docs/method.md#value-score).

A part that remembers one fact can be removed without harm to the rest. A part whose removal makes the
model worse at everything lowers the target's probability too, and says nothing about the fact.

A query score says how much of what a value neuron reads was written by a query neuron. If that is so, zeroing
query neurons lowers the coefficients by what they wrote, and with them the target's probability. What is
predicted holds the norms and the attention weights fixed; what is measured holds nothing fixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    pass


# Every table of value neurons and its columns, in the order they are shown and stored.
_EFFECTS = ("score", "total", "mediated")
_FFN_NEURONS = ("layer", "neuron", *_EFFECTS, "coefficient", "promotes", "demotes")
_ATTENTION_NEURONS = ("layer", "head", "dim", "position", "token", *_EFFECTS, "coefficient")
_SUMMED = ("layer", "head", "dim", *_EFFECTS, "coefficient")
_POSITIONS = ("layer", "head", "position", "token", *_EFFECTS, "attention")
TABLES: dict[str, tuple[str, ...]] = {
    "layers": ("layer", "kind", *_EFFECTS),
    "heads": ("layer", "head", *_EFFECTS),
    "positions": _POSITIONS,
    "suppressing_positions": _POSITIONS,
    "ffn_neurons": _FFN_NEURONS,
    "suppressing_ffn_neurons": _FFN_NEURONS,
    "attention_neurons": _ATTENTION_NEURONS,
    "suppressing_attention_neurons": _ATTENTION_NEURONS,
    "attention_neurons_summed": _SUMMED,
    "suppressing_attention_neurons_summed": _SUMMED,
    "ffn_scores": ("layer", "neuron", "lower", "upper", "coefficient"),
    "attention_scores": ("layer", "head", "dim", "position", "lower", "upper", "coefficient"),
}
# Those of FFN neurons, which have one more column, `expert`, where a layer is a mixture of experts.
FFN_TABLES = ("ffn_neurons", "suppressing_ffn_neurons", "ffn_scores")
# Those that hold as many of the best as were asked for; the others hold all.
TOP_LISTS = frozenset(TABLES) - {"layers", "heads", "ffn_scores", "attention_scores"}


def records(table: pd.DataFrame, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a table as plain Python objects."""
    plain = {name: table[name].tolist() for name in columns}
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]


# Columns of each table, in the order they are shown and stored.
_AT = ("position", "token")
_READING = ("score", "path", "inner_product", "constant", "remainder", "skipped")
_SCORES = ("score", "inner_product")
QUERY_TABLES: dict[str, tuple[str, ...]] = {
    "query_layers": ("layer", "kind", *_SCORES, "bias"),
    "query_heads": ("layer", "head", *_SCORES),
    "query_ffn_neurons": ("layer", "neuron", *_SCORES, *_AT, "coefficient", "value_neuron"),
    "query_attention_neurons": ("layer", "head", "dim", *_SCORES, *_AT, "coefficient"),
    "query_value_neurons": ("layer", "head", "dim", *_AT, *_READING),
}
_OF_FFN = "_of_ffn"
QUERY_TABLES |= {f"{name}{_OF_FFN}": columns for name, columns in QUERY_TABLES.items()}
QUERY_TABLES[f"query_value_neurons{_OF_FFN}"] = ("layer", "neuron", *_AT, *_READING)


SPLIT_COLUMNS = ("layer", "query_only", "query_value", "value_only")


NODE_COLUMNS = (
    "id",
    "kind",
    "layer",
    "neuron",
    "head",
    "dim",
    "position",
    "token",
    "writes",
    "depth",
    "value_score",
    "query_score",
    "explained",
    "skipped",
)
EDGE_COLUMNS = ("source", "target", "score", "share", "inner_product", "gate_inner_product")


# The tables of sums, and those of them whose rows are the best of all.
TOP_SUMS = (
    "ffn_neurons",
    "suppressing_ffn_neurons",
    "attention_neurons_summed",
    "suppressing_attention_neurons_summed",
)
SUMS = ("layers", "heads", *TOP_SUMS)


COLUMNS = ("position", "token", "attention", "input", "key", "value", "demotes", "value_norm")


METRICS = ("reciprocal_rank", "probability", "log_probability")


GROUPS = ("same relation", "other relations")
FACT_COLUMNS = ("group", "when", "n_facts", *METRICS)


COEFFICIENT_COLUMNS = (
    "kind",
    "layer",
    "head",
    "dim",
    "position",
    "neuron",
    "score",
    "before",
    "predicted",
    "after",
    "control_mean",
    "control_standard_deviation",
)
AGREEMENT_COLUMNS = ("kind", "n", "pearson", "spearman", "measured", "predicted", "controls")
