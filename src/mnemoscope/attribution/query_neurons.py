"""The result of a query: tables of what activates the top value neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.experts import with_experts
from mnemoscope.attribution.query import ATTENTION, FFN, QueryScores
from mnemoscope.attribution.subkeys import Key, Subkeys, ValueNeurons, subkeys
from mnemoscope.model.components import Components, capture_components
from mnemoscope.model.language_model import LanguageModel

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


@dataclass(frozen=True, eq=False)
class QueryTables:
    """What activates the top value neurons of one kind, best first.

    `score` is the query score in nats (docs/method.md#query-score): the sum over the value neurons of their
    score times the component's share of what they read. `inner_product` is raw: the mean over all value
    neurons, skipped ones too, of what the component gives to the pre-activation, towards the sign that all
    components together give it. In the tables of neurons, `position` is where the largest part of the
    score is read and `coefficient` is the neuron's there, as it enters its projection.

    Attributes:
        layers: every attention and FFN output (`bias` is the part of the score that is no neuron's) and
            the embeddings, which are `layer` -1. The scores sum to those of the value neurons kept.
        heads: every head.
        ffn_neurons: the FFN neurons with the highest scores; `value_neuron` says which are in the list of
            FFN value neurons too (the paper's *query-value*; the others are *query-only*).
        attention_neurons: the attention neurons with the highest scores, source positions added up.
        value_neurons: those that were asked about, a row for each path by which they read the stream:
            `inner_product` is the sum over all components, `constant` what biases of the reading
            module add, `remainder` the share of the components' magnitudes that is left of it, and
            `skipped` whether the neuron was left out of the scores because too little is.
    """

    layers: pd.DataFrame
    heads: pd.DataFrame
    ffn_neurons: pd.DataFrame
    attention_neurons: pd.DataFrame
    value_neurons: pd.DataFrame

    @property
    def skipped(self) -> pd.DataFrame:
        """The value neurons left out of the scores, by name."""
        place = ("layer", "neuron", "head", "dim", "position")
        names = [name for name in place if name in self.value_neurons]
        left_out = self.value_neurons.query("skipped")
        return left_out.drop_duplicates(names, ignore_index=True).filter(names)


@dataclass(frozen=True, eq=False)
class QueryNeurons:
    """What activates the value neurons of a result.

    Attributes:
        of_attention: the components that activate its top attention value neurons.
        of_ffn: those that activate its top FFN value neurons.
    """

    of_attention: QueryTables
    of_ffn: QueryTables

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by its name in files, in the order of `QUERY_TABLES`."""
        sides = {"": self.of_attention, _OF_FFN: self.of_ffn}
        return {
            name: getattr(sides[_OF_FFN if name.endswith(_OF_FFN) else ""], _attribute(name))
            for name in QUERY_TABLES
        }

    @staticmethod
    def of_tables(tables: dict[str, pd.DataFrame]) -> QueryNeurons:
        """Put together from tables by their names in files."""
        sides = (
            QueryTables(
                **{
                    _attribute(name): tables[name]
                    for name in QUERY_TABLES
                    if name.endswith(_OF_FFN) == (ending == _OF_FFN)
                }
            )
            for ending in ("", _OF_FFN)
        )
        return QueryNeurons(*sides)


def _attribute(name: str) -> str:
    return name.removeprefix("query_").removesuffix(_OF_FFN)


@dataclass(frozen=True)
class Asked:
    """What to ask of a result.

    Attributes:
        values: how many value neurons of each kind (the paper takes 30).
        top: how many query neurons of each kind to list.
        key: as for `subkeys`.
    """

    values: int
    top: int
    key: Key | None = None


def query_neurons(
    language_model: LanguageModel,
    token_ids: Sequence[int],
    tokens: Sequence[str],
    value_tables: tuple[pd.DataFrame, pd.DataFrame],
    asked: Asked,
    everywhere: Components | None = None,
) -> QueryNeurons:
    """Find what activates value neurons.

    Args:
        language_model: the model.
        token_ids: the prompt.
        tokens: its tokens as text.
        value_tables: attention neurons (at positions) and FFN neurons, best first.
        asked: what is wanted.
        everywhere: what was written at every position of the prompt; None runs it once more, and keeps that
            at the positions that the value neurons read.

    Raises:
        UnsupportedModelError: what the neurons read could not be found.
    """
    attention, ffn = value_tables
    groups = [
        attention_values(attention.head(asked.values), language_model),
        ffn_values(ffn.head(asked.values), language_model, len(tokens) - 1),
    ]
    anatomy = language_model.anatomy
    positions = torch.cat([group.position for group in groups]).unique()
    if everywhere is None:
        components = capture_components(language_model.model, anatomy, token_ids, positions.tolist())
    else:
        components = everywhere.at(positions)
    keys = [subkeys(anatomy, components, group, asked.key) for group in groups]
    scores = QueryScores(anatomy, components, keys)
    makers = (
        _Tables(scores, number, group, read, tokens, asked.top, ffn)
        for number, (group, read) in enumerate(zip(groups, keys, strict=True))
    )
    return QueryNeurons(*(maker.tables() for maker in makers))


def attention_values(table: pd.DataFrame, language_model: LanguageModel) -> ValueNeurons:
    """The rows of a table of attention neurons at positions as value neurons."""
    anatomy = language_model.anatomy
    index = table["head"] * anatomy.d_head + table["dim"]
    device = anatomy.readout.unembedding.device
    columns = (table["layer"], index, table["position"], table["score"])
    return ValueNeurons("attention", *(_tensor(column, device) for column in columns))


def ffn_values(table: pd.DataFrame, language_model: LanguageModel, last: int) -> ValueNeurons:
    """The rows of a table of FFN neurons as value neurons, which read the last position."""
    device = language_model.anatomy.readout.unembedding.device
    layer, neuron, score = (_tensor(table[name], device) for name in ("layer", "neuron", "score"))
    return ValueNeurons("ffn", layer, neuron, torch.full_like(layer, last), score)


def _tensor(column: pd.Series, device: torch.device) -> Tensor:
    found = torch.as_tensor(column.to_numpy().copy(), device=device)
    return found.float() if found.is_floating_point() else found.long()


@dataclass(frozen=True, eq=False)
class _Tables:
    """Makes the tables of one group of value neurons."""

    scores: QueryScores
    group: int
    neurons: ValueNeurons
    subkeys: Subkeys
    tokens: Sequence[str]
    top: int
    ffn_value_table: pd.DataFrame

    def tables(self) -> QueryTables:
        return QueryTables(
            self._layers(), self._heads(), self._ffn_neurons(), self._attention_neurons(), self._values()
        )

    def _layers(self) -> pd.DataFrame:
        scores = self.scores
        values, bias = scores.layers[self.group], scores.biases[self.group, 0]
        n_layers = len(bias)
        embeddings = scores.embeddings[self.group]
        table = pd.DataFrame(
            {
                "layer": [-1, *(layer for layer in range(n_layers) for _ in range(2))],
                "kind": ["embeddings", *["attention", "ffn"] * n_layers],
                "score": [float(embeddings[0]), *values[0].flatten().tolist()],
                "inner_product": [float(embeddings[1]), *values[1].flatten().tolist()],
                "bias": [0.0, *bias.flatten().tolist()],
            }
        )
        return _best_first(table)

    def _heads(self) -> pd.DataFrame:
        score, raw = self.scores.heads[self.group]
        layer, head = torch.meshgrid(torch.arange(len(score)), torch.arange(score.shape[1]), indexing="ij")
        columns = {"layer": layer, "head": head, "score": score, "inner_product": raw}
        return _best_first(_frame({name: values.flatten() for name, values in columns.items()}))

    def _ffn_neurons(self) -> pd.DataFrame:
        table = self._neurons(FFN, self.scores.ffn_neurons[self.group])
        known = set(zip(self.ffn_value_table["layer"], self.ffn_value_table["neuron"], strict=True))
        also = [pair in known for pair in zip(table["layer"], table["index"], strict=True)]
        table = table.rename(columns={"index": "neuron"}).assign(value_neuron=also)
        return with_experts(table, self.scores.anatomy)

    def _attention_neurons(self) -> pd.DataFrame:
        table = self._neurons(ATTENTION, self.scores.attention_neurons[self.group])
        d_head = self.scores.anatomy.d_head
        table.insert(1, "head", table["index"] // d_head)
        table.insert(2, "dim", table["index"] % d_head)
        return table.drop(columns="index")

    def _neurons(self, which: int, both: Tensor) -> pd.DataFrame:
        """The neurons with the highest scores, `[2, n_layers, n]`; none that nothing reads."""
        score, raw = both.flatten(1)
        order = _highest(score, self.top)
        order = order[score[order] != 0]
        layer, index = order.div(both.shape[2], rounding_mode="floor"), order % both.shape[2]
        components = self.scores.components
        place = self.scores.by_position(self.group, which, layer, index).abs().argmax(dim=1)
        position = components.positions[place]
        kept = (components.attention_coefficients, components.ffn_coefficients)[which]
        scales = (components.attention_scales, components.ffn_scales)[which]
        coefficient = kept[layer, place, index] / scales[layer, place]
        frame = _frame(
            {
                "layer": layer,
                "index": index,
                "score": score[order],
                "inner_product": raw[order],
                "position": position,
            }
        )
        frame["token"] = [self.tokens[i] for i in position.tolist()]
        return frame.assign(coefficient=coefficient.cpu().numpy())

    def _values(self) -> pd.DataFrame:
        rows, neurons = self.subkeys.neuron, self.neurons
        products = self.scores.products[self.group]
        position = neurons.position[rows]
        index = neurons.index[rows]
        d_head = self.scores.anatomy.d_head
        attention = {"head": index.div(d_head, rounding_mode="floor"), "dim": index % d_head}
        names = attention if neurons.kind == "attention" else {"neuron": index}
        frame = _frame({"layer": neurons.layer[rows], **names, "position": position})
        return frame.assign(
            token=[self.tokens[i] for i in position.tolist()],
            score=neurons.score[rows].cpu().numpy(),
            path=list(self.subkeys.path),
            inner_product=products.total.cpu().numpy(),
            constant=self.subkeys.constants.cpu().numpy(),
            remainder=products.remainder.cpu().numpy(),
            skipped=self.scores.skipped[self.group][rows].cpu().numpy(),
        )


def _frame(columns: dict[str, Tensor]) -> pd.DataFrame:
    return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})


def _highest(scores: Tensor, top: int) -> Tensor:
    """Indices of the highest scores `[n]`, best first and ties by index; only as many are sorted."""
    least = scores.topk(min(top, len(scores))).values[-1]
    among = torch.nonzero(scores >= least)[:, 0]
    return among[scores[among].argsort(descending=True, stable=True)[:top]]


def _best_first(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
