"""The columns of every table of a result: name, dtype, unit and meaning, in the order shown and stored.

Layers, heads, dims, neurons and positions count from 0. Scores are defined in docs/method.md#value-score and
docs/method.md#query-score.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: of the column.
        dtype: of pandas (`Int64` where numbers may be missing), `list` for lists of texts, or `numbers` for
            lists of numbers.
        unit: such as `nats`; empty for none.
        meaning: in words.
    """

    name: str
    dtype: str
    unit: str
    meaning: str


_LAYER = Column("layer", "int64", "", "layer; -1 for the embeddings")
_KIND = Column("kind", "str", "", "`attention` or `ffn`; `embeddings` in query tables")
_HEAD = Column("head", "int64", "", "query head of the layer")
_DIM = Column("dim", "int64", "", "dimension of the head's value")
_NEURON = Column("neuron", "int64", "", "FFN neuron of the layer")
_POSITION = Column("position", "int64", "", "position of the prompt that the head attends to")
_TOKEN = Column("token", "str", "", "token at that position")
_DIRECT = Column(
    "direct", "float32", "nats", "log-probability increase by the part; positive raises the target"
)
_EFFECTS = (
    _DIRECT,
    Column("total", "float32", "nats", "first-order total effect of removing the part; NaN if not computed"),
    Column("mediated", "float32", "nats", "`total - direct`, the effect through later layers"),
)
_COEFFICIENT = Column("coefficient", "float32", "", "value that enters the output or down projection")
_PROMOTES = Column("promotes", "list", "", "tokens with the largest before-softmax values, its sign included")
_DEMOTES = Column("demotes", "list", "", "tokens with the smallest ones")
_BOUNDS = (
    Column("lower", "float32", "nats", "lower bound of the direct effect, rounding included"),
    Column("upper", "float32", "nats", "upper bound of the direct effect; `lower` where all were scored"),
)
_ATTENTION = Column("attention", "float32", "", "attention weight from the last position")
# Lists of the best parts; the others are in tables of the same names after `suppressing_`.
_LISTS = {
    "heads_by_position": (_LAYER, _HEAD, _POSITION, _TOKEN, *_EFFECTS, _ATTENTION),
    "ffn_neurons": (_LAYER, _NEURON, *_EFFECTS, _COEFFICIENT, _PROMOTES, _DEMOTES),
    "attention_neurons": (_LAYER, _HEAD, _DIM, _POSITION, _TOKEN, *_EFFECTS, _COEFFICIENT),
    "attention_neurons_summed": (_LAYER, _HEAD, _DIM, *_EFFECTS, _COEFFICIENT),
}

# Tables of value neurons.
_VALUES = {
    "layers": (_LAYER, _KIND, *_EFFECTS),
    "heads": (_LAYER, _HEAD, *_EFFECTS),
    **{f"{side}{name}": columns for name, columns in _LISTS.items() for side in ("", "suppressing_")},
    "ffn_scores": (_LAYER, _NEURON, *_BOUNDS, _COEFFICIENT),
    "attention_scores": (_LAYER, _HEAD, _DIM, _POSITION, *_BOUNDS, _COEFFICIENT),
}

_QUERY_SCORE = replace(
    _DIRECT, name="score", meaning="query score: the readers' scores times the share of the part in each"
)
_INNER_PRODUCT = Column(
    "inner_product",
    "float32",
    "pre-activation",
    "mean over all value neurons of what the part adds to what they read, towards the sign of the whole",
)
_AT = (
    replace(_POSITION, meaning="position where the largest part of the score is read"),
    _TOKEN,
)
_OF_NEURON = (_QUERY_SCORE, _INNER_PRODUCT, *_AT, replace(_COEFFICIENT, meaning="value there"))
_READING = (
    replace(_POSITION, meaning="position where the value neuron reads the stream"),
    _TOKEN,
    _DIRECT,
    Column("path", "str", "", "`value`, `gate`, `up` or `down`: the projection that reads"),
    replace(_INNER_PRODUCT, dtype="float64", meaning="sum over all components"),
    Column("constant", "float32", "pre-activation", "what biases of the reading projection add"),
    Column("remainder", "float64", "", "share of the components' magnitudes that is left of their sum"),
    Column("skipped", "bool", "", "whether it is left out of the scores because too little is left"),
)
_VALUE_NEURON = Column("value_neuron", "bool", "", "whether it is listed as a value neuron too (query-value)")
_QUERIES = {
    "query_layers": (
        _LAYER,
        _KIND,
        replace(_QUERY_SCORE, dtype="float64"),
        replace(_INNER_PRODUCT, dtype="float64"),
        Column("bias", "float64", "nats", "part of the score that belongs to biases and to no neuron"),
    ),
    "query_heads": (_LAYER, _HEAD, _QUERY_SCORE, _INNER_PRODUCT),
    "query_ffn_neurons": (_LAYER, _NEURON, *_OF_NEURON, _VALUE_NEURON),
    "query_attention_neurons": (_LAYER, _HEAD, _DIM, *_OF_NEURON),
    "query_value_neurons": (_LAYER, _HEAD, _DIM, *_READING),
}
OF_FFN = "_of_ffn"
_QUERIES |= {f"{name}{OF_FFN}": columns for name, columns in _QUERIES.items()}
_QUERIES[f"query_value_neurons{OF_FFN}"] = (_LAYER, _NEURON, *_READING)

_METRICS = (
    Column("reciprocal_rank", "float64", "", "1 / rank of the target; its mean over prompts is the MRR"),
    Column("probability", "float64", "", "probability of the target"),
    Column("log_probability", "float64", "nats", "log probability of the target"),
)
_NODE_NUMBERS = tuple(replace(each, dtype="Int64") for each in (_LAYER, _NEURON, _HEAD, _DIM))
_RAW = replace(_INNER_PRODUCT, dtype="float64", meaning="raw, what the source adds to what the target reads")
_CHANGE = Column("measured", "float64", "", "mean of `after / before - 1`")

_NODE_KIND = Column("kind", "str", "", "`ffn`, `attention` (an attention neuron) or `head`")
_NODE_PLACE = (
    replace(_NEURON, meaning="FFN neuron of the layer; -1 for other kinds"),
    replace(_HEAD, meaning="query head of the layer; -1 for FFN neurons"),
    replace(_DIM, meaning="dimension of the head's value; -1 for other kinds"),
)
_GROUP = Column(
    "group",
    "str",
    "",
    "`highest` activations, `lowest` ones below 0, or the signs of gate and up pre-activation at the token "
    "(`++`, `+-`, `-+`, `--`, the gate's first), by magnitude",
)
_EXAMPLES = {
    "example_windows": (
        _NODE_KIND,
        replace(_LAYER, meaning="layer"),
        *_NODE_PLACE,
        _GROUP,
        Column("rank", "int64", "", "place of the window in its group, from 1"),
        replace(_COEFFICIENT, name="activation", meaning=f"{_COEFFICIENT.meaning} at the group's best token"),
        replace(_POSITION, meaning="position of that token in the window"),
        replace(_TOKEN, meaning="that token"),
        Column("document", "int64", "", "number of the text in the corpus"),
        Column("start", "int64", "", "number of the window's first token in the text, special ones aside"),
        Column("tokens", "list", "", "tokens of the window"),
        Column("activations", "numbers", "", "activation at each; null at special tokens in front"),
    ),
    "example_signs": (
        replace(_LAYER, meaning="layer"),
        _NEURON,
        replace(_GROUP, meaning="signs of gate and up pre-activation, the gate's first; `-` is 0 or below"),
        Column("n_tokens", "int64", "", "number of tokens of the corpus with these signs"),
        Column("share", "float64", "", "their share of the tokens at which the neuron runs"),
    ),
}
_RATIO = Column("faithfulness", "float64", "", "F of the kept nodes on test pairs; 1 = as the whole model")
_CURVE = (
    Column("size", "int64", "", "number of nodes kept"),
    Column("share", "float64", "", "their share of all nodes"),
    _RATIO,
    replace(_RATIO, name="faithfulness_low", meaning="lower end of its 95 % interval over test pairs"),
    replace(_RATIO, name="faithfulness_high", meaning="upper end"),
    replace(_RATIO, name="completeness", meaning="K: F of all other nodes; 0 = nothing is left out"),
    replace(_RATIO, name="completeness_low", meaning="lower end of its interval"),
    replace(_RATIO, name="completeness_high", meaning="upper end"),
    replace(_RATIO, name="random", meaning="F of as many random nodes"),
    replace(_RATIO, name="matched", meaning="F of as many random nodes of the same layers and positions"),
)

_A = replace(_DIRECT, name="a", meaning="score in prompt A, a direct effect; positive raises its target")
_DIFFERENCE = (
    _A,
    replace(_A, name="b", meaning="score in prompt B"),
    replace(_A, name="diff", meaning="`b - a`; tables are sorted by its magnitude"),
)
_COEFFICIENTS = (
    replace(_COEFFICIENT, name="coefficient_a", meaning=f"{_COEFFICIENT.meaning} in prompt A"),
    replace(_COEFFICIENT, name="coefficient_b", meaning="the same in prompt B"),
)
_COMPARISON = {
    "layers": (_LAYER, _KIND, *_DIFFERENCE),
    "heads": (_LAYER, _HEAD, *_DIFFERENCE),
    "ffn_neurons": (
        _LAYER,
        _NEURON,
        *_DIFFERENCE,
        *_COEFFICIENTS,
        replace(
            _PROMOTES,
            meaning="tokens with the largest before-softmax values, with the sign of the coefficient where "
            "the score is larger in magnitude",
        ),
        _DEMOTES,
    ),
    "attention_neurons_summed": (_LAYER, _HEAD, _DIM, *_DIFFERENCE, *_COEFFICIENTS),
}

# Every table by name.
SCHEMA: dict[str, tuple[Column, ...]] = {
    **_VALUES,
    **_QUERIES,
    **{f"comparison_{name}": columns for name, columns in _COMPARISON.items()},
    **_EXAMPLES,
    "circuit_nodes": (
        _NODE_KIND,
        replace(_LAYER, meaning="layer"),
        *_NODE_PLACE,
        replace(_POSITION, meaning="position of the prompt; -1 for all"),
        Column(
            "score", "float32", "nats", "score by the method; of the contrast of activations, without a unit"
        ),
    ),
    "circuit_edges": (
        Column("source", "int64", "", "row of the node that writes"),
        Column("target", "int64", "", "row of the node that reads"),
        Column("share", "float64", "", "share of the writer in what the reader reads, mean over pairs"),
    ),
    "circuit_curve": _CURVE,
    "query_split": (
        _LAYER,
        Column("query_only", "int64", "", "number of FFN neurons that are query neurons alone"),
        Column("query_value", "int64", "", "number that are query and value neurons"),
        Column("value_only", "int64", "", "number that are value neurons alone"),
    ),
    "nodes": (
        Column("id", "str", "", "name of the node, such as `ffn 24.1005 @7`"),
        Column("kind", "str", "", "`ffn`, `attention` (a value neuron), `head`, `embeddings` or `biases`"),
        *_NODE_NUMBERS,
        replace(_POSITION, meaning="position where the node reads the stream"),
        _TOKEN,
        Column("writes", "int64", "", "position where the node writes to the stream"),
        Column("depth", "int64", "", "steps from the nearest value neuron"),
        Column("value_score", "float64", "nats", "a value neuron's log-probability increase; else 0"),
        Column("query_score", "float64", "nats", "what the node gives to its readers"),
        Column("explained", "float64", "", "share of both that its edges explain; NaN if not taken apart"),
        Column("skipped", "bool", "", "whether it was not taken apart because its components cancel"),
    ),
    "edges": (
        Column("source", "str", "", "id of the node that writes"),
        Column("target", "str", "", "id of the node that reads"),
        Column("score", "float64", "nats", "the reader's score times the writer's share"),
        Column("share", "float64", "", "the writer's share of what the reader reads"),
        _RAW,
        replace(_RAW, name="gate_inner_product", meaning="the same through the gate; NaN without one"),
    ),
    "head_tokens": (
        replace(_POSITION, meaning="position p, in order"),
        _TOKEN,
        Column("attention", "float32", "", "weight from the last position; all sum to 1, less with sinks"),
        Column(
            "input", "list", "", "top tokens of the stream at p before the layer (logit lens with biases)"
        ),
        Column("key", "list", "", "top tokens of the gradient of the attention score by that stream"),
        Column("value", "list", "", "top tokens of what the head adds to the last position from p"),
        Column("demotes", "list", "", "bottom tokens of the same"),
        Column("value_norm", "float32", "", "its norm; where it is small, `value` says little of the head"),
    ),
    "metrics": _METRICS,
    "facts": (
        Column("group", "str", "", "`same relation` or `other relations`"),
        Column("when", "str", "", "`before` or `after` the intervention"),
        Column("n_facts", "int64", "", "number of facts that the metrics are means over"),
        *_METRICS,
    ),
    "coefficients": (
        Column("kind", "str", "", "`attention` or `ffn`"),
        _LAYER,
        replace(_HEAD, dtype="Int64"),
        replace(_DIM, dtype="Int64"),
        replace(_POSITION, meaning="position where the value neuron reads the stream"),
        replace(_NEURON, dtype="Int64"),
        _DIRECT,
        Column("before", "float64", "", "coefficient of the value neuron, unchanged"),
        Column("predicted", "float64", "", "coefficient with norms and attention weights held fixed"),
        Column("after", "float64", "", "coefficient measured"),
        Column("control_mean", "float64", "", "mean over random controls; those that zero it do not count"),
        Column("control_standard_deviation", "float64", "", "sample standard deviation over the controls"),
    ),
    "agreement": (
        Column("kind", "str", "", "`attention`, `ffn` or `both`"),
        Column("n", "int64", "", "number of value neurons with a coefficient other than 0 before"),
        Column("pearson", "float64", "", "correlation of the measured and the predicted relative change"),
        Column("spearman", "float64", "", "rank correlation of the same"),
        _CHANGE,
        replace(_CHANGE, name="predicted", meaning="mean of `predicted / before - 1`"),
        replace(_CHANGE, name="controls", meaning="mean of `control_mean / before - 1`"),
    ),
}


def names(columns: Iterable[Column]) -> tuple[str, ...]:
    """Return the names of columns."""
    return tuple(column.name for column in columns)


TABLES = {table: names(columns) for table, columns in _VALUES.items()}
QUERY_TABLES = {table: names(columns) for table, columns in _QUERIES.items()}
# Tables of FFN neurons, with one more column, `expert`, where a layer is a mixture of experts.
FFN_TABLES = ("ffn_neurons", "suppressing_ffn_neurons", "ffn_scores")
# Tables that list as many of the best parts as were asked for; the others hold all.
TOP_LISTS = frozenset(TABLES) - {"layers", "heads", "ffn_scores", "attention_scores"}
# Tables of value neurons in `mnemoscope attribute --json`: those that the terminal prints too.
PRINTED = (
    "layers",
    "heads",
    "ffn_neurons",
    "attention_neurons",
    "heads_by_position",
    "suppressing_ffn_neurons",
    "suppressing_attention_neurons",
    "suppressing_heads_by_position",
)
# Tables of sums over the tokens of a target, and those of them that list the best.
TOP_SUMS = (
    "ffn_neurons",
    "suppressing_ffn_neurons",
    "attention_neurons_summed",
    "suppressing_attention_neurons_summed",
)
SUMS = ("layers", "heads", *TOP_SUMS)
SPLIT_COLUMNS = names(SCHEMA["query_split"])
NODE_COLUMNS, EDGE_COLUMNS = names(SCHEMA["nodes"]), names(SCHEMA["edges"])
CIRCUIT_TABLES = {
    name: {column.name: column.dtype for column in SCHEMA[f"circuit_{name}"]}
    for name in ("nodes", "edges", "curve")
}
COMPARISON_TABLES = {table: names(columns) for table, columns in _COMPARISON.items()}
EXAMPLE_WINDOWS, EXAMPLE_SIGNS = (names(columns) for columns in _EXAMPLES.values())
HEAD_TOKEN_COLUMNS = names(SCHEMA["head_tokens"])
METRICS, FACT_COLUMNS = names(SCHEMA["metrics"]), names(SCHEMA["facts"])
GROUPS = ("same relation", "other relations")
COEFFICIENT_COLUMNS, AGREEMENT_COLUMNS = names(SCHEMA["coefficients"]), names(SCHEMA["agreement"])
LIST_COLUMNS = frozenset(
    c.name for columns in SCHEMA.values() for c in columns if c.dtype in ("list", "numbers")
)


def records(table: pd.DataFrame, columns: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a table as plain Python objects, with some of its columns or all."""
    plain = {name: table[name].tolist() for name in (tuple(table) if columns is None else columns)}
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
