"""Query scores and the query graph as tables."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.query.graph import Graph, GraphBuilder, NodeKind
from mnemoscope.attribution.query.scores import QueryScores, ValueNeurons, subkeys
from mnemoscope.attribution.tables import frame, head_and_dim, sorted_best_first, with_experts
from mnemoscope.errors import OptionError
from mnemoscope.model.components import ResidualDecomposition, capture_components
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import EDGE_COLUMNS, NODE_COLUMNS, SPLIT_COLUMNS
from mnemoscope.results.parts import NeuronKind
from mnemoscope.results.query import Key, QueryNeurons, QueryTables


@dataclass(frozen=True)
class QueryOptions:
    """Options of query scores.

    Attributes:
        values: number of value neurons of each kind (the paper takes 30).
        top: number of query neurons of each kind to list.
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
    options: QueryOptions,
    everywhere: ResidualDecomposition | None = None,
) -> QueryNeurons:
    """Compute the query scores of the components that activate value neurons.

    Args:
        language_model: the model.
        token_ids: the prompt.
        tokens: its tokens as text.
        value_tables: attention neurons (at positions) and FFN neurons, best first.
        options: the options.
        everywhere: components at every position of the prompt; None runs it once more.

    Raises:
        UnsupportedModelError: the input projections could not be found.
    """
    attention, ffn = value_tables
    groups = [
        attention_values(attention.head(options.values), language_model),
        ffn_values(ffn.head(options.values), language_model, len(tokens) - 1),
    ]
    structure = language_model.structure
    positions = torch.cat([group.position for group in groups]).unique()
    if everywhere is None:
        components = capture_components(language_model.model, structure, token_ids, positions.tolist())
    else:
        components = everywhere.at(positions)
    keys = [subkeys(structure, components, group, options.key) for group in groups]
    scores = QueryScores(structure, components, keys)
    makers = (_Tables(scores, number, group, tokens, options.top, ffn) for number, group in enumerate(groups))
    return QueryNeurons(*(maker.tables() for maker in makers))


def attention_values(table: pd.DataFrame, language_model: LanguageModel) -> ValueNeurons:
    """Return the rows of a table of attention neurons at positions as value neurons."""
    structure = language_model.structure
    index = table["head"] * structure.d_head + table["dim"]
    device = structure.readout.unembedding.device
    columns = (table["layer"], index, table["position"], table["direct"])
    return ValueNeurons("attention", *(_tensor(column, device) for column in columns))


def ffn_values(table: pd.DataFrame, language_model: LanguageModel, last: int) -> ValueNeurons:
    """Return the rows of a table of FFN neurons as value neurons, which read the last position."""
    device = language_model.structure.readout.unembedding.device
    layer, neuron, score = (_tensor(table[name], device) for name in ("layer", "neuron", "direct"))
    return ValueNeurons("ffn", layer, neuron, torch.full_like(layer, last), score)


def _tensor(column: pd.Series, device: torch.device) -> Tensor:
    found = torch.as_tensor(column.to_numpy().copy(), device=device)
    return found.float() if found.is_floating_point() else found.long()


@dataclass(frozen=True, eq=False)
class _Tables:
    """Tables of one group of value neurons."""

    scores: QueryScores
    group: int
    neurons: ValueNeurons
    tokens: Sequence[str]
    top: int
    ffn_value_table: pd.DataFrame

    def tables(self) -> QueryTables:
        attention_neurons = self._neurons("attention", self.scores.attention_neurons[self.group])
        return QueryTables(
            self._layers(), self._heads(), self._ffn_neurons(), attention_neurons, self._values()
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
        return sorted_best_first(table, "score")

    def _heads(self) -> pd.DataFrame:
        score, raw = self.scores.heads[self.group]
        n_layers, n_heads = score.shape
        layer = torch.arange(n_layers).repeat_interleave(n_heads)
        head = torch.arange(n_heads).repeat(n_layers)
        table = frame(layer=layer, head=head, score=score.flatten(), inner_product=raw.flatten())
        return sorted_best_first(table, "score")

    def _ffn_neurons(self) -> pd.DataFrame:
        table = self._neurons("ffn", self.scores.ffn_neurons[self.group])
        known = set(zip(self.ffn_value_table["layer"], self.ffn_value_table["neuron"], strict=True))
        also = [pair in known for pair in zip(table["layer"], table["neuron"], strict=True)]
        return with_experts(table.assign(value_neuron=also), self.scores.structure)

    def _neurons(self, kind: NeuronKind, both: Tensor) -> pd.DataFrame:
        """Tabulate the neurons with the highest scores, `[2, n_layers, n]`, without those of score 0."""
        score, raw = both.flatten(1)
        read = score.nonzero()[:, 0]
        order = read[_highest(score[read], self.top)]
        layer, index = order // both.shape[2], order % both.shape[2]
        components = self.scores.components
        place = self.scores.by_position(self.group, kind, layer, index).abs().argmax(dim=1)
        position = components.positions[place]
        coefficient = components.coefficients(kind)[layer, place, index]
        coefficient = coefficient / components.scales(kind)[layer, place]
        return frame(
            layer=layer,
            **self._names(kind, index),
            score=score[order],
            inner_product=raw[order],
            position=position,
            token=[self.tokens[i] for i in position.tolist()],
            coefficient=coefficient,
        )

    def _names(self, kind: NeuronKind, index: Tensor) -> dict[str, Tensor]:
        """Return the columns that name neurons within their layers."""
        return {"neuron": index} if kind == "ffn" else head_and_dim(self.scores.structure, index)

    def _values(self) -> pd.DataFrame:
        products, neurons = self.scores.products[self.group], self.neurons
        subkeys = products.subkeys
        position, index = neurons.position[subkeys.neuron], neurons.index[subkeys.neuron]
        return frame(
            layer=subkeys.layer,
            **self._names(neurons.kind, index),
            position=position,
            token=[self.tokens[i] for i in position.tolist()],
            direct=neurons.score[subkeys.neuron],
            path=list(subkeys.path),
            inner_product=products.total,
            constant=subkeys.constants,
            remainder=products.remainder,
            skipped=products.skipped[subkeys.neuron],
        )


def _highest(scores: Tensor, top: int) -> Tensor:
    """Return indices of the highest scores `[n]`, best first, ties by index; only as many are sorted."""
    if not len(scores):
        return scores.new_empty(0, dtype=torch.long)
    least = scores.topk(min(top, len(scores))).values[-1]
    among = torch.nonzero(scores >= least)[:, 0]
    return among[scores[among].argsort(descending=True, stable=True)[:top]]


def split_by_layer(value_neurons: pd.DataFrame, query_neurons: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    """Count the FFN neurons that are in one or both of two lists, by layer.

    Args:
        value_neurons: a table of FFN neurons, by `layer` and `neuron`.
        query_neurons: another.
        n_layers: of the model.

    Returns:
        One row for each layer with the columns of `SPLIT_COLUMNS`.
    """
    value, query = (
        set(zip(table["layer"].tolist(), table["neuron"].tolist(), strict=True))
        for table in (value_neurons, query_neurons)
    )
    found = {"query_only": query - value, "query_value": query & value, "value_only": value - query}
    counts = {name: Counter(layer for layer, _ in neurons) for name, neurons in found.items()}
    columns = {name: [count[layer] for layer in range(n_layers)] for name, count in counts.items()}
    return pd.DataFrame({"layer": range(n_layers), **columns}, columns=list(SPLIT_COLUMNS))


@dataclass(frozen=True)
class Extent:
    """Extent of a query graph.

    Attributes:
        values: number of value neurons of each kind to begin with.
        depth: number of steps to go back.
        width: number of edges to keep of each node.
    """

    values: int
    depth: int
    width: int


def follow(language_model: LanguageModel, result: Attribution, extent: Extent, budget: int) -> Graph:
    """Build the graph of a result's value neurons, by one forward pass kept at every position.

    Raises:
        OptionError: the kept activations do not fit the budget, in bytes.
        UnsupportedModelError: the input projections could not be found.
    """
    structure, n_tokens = language_model.structure, len(result.tokens)
    width = structure.d_ff + 3 * structure.n_heads * structure.d_head + 6 * structure.d_model
    needed = 4 * n_tokens * structure.n_layers * width
    if needed > budget:
        raise OptionError(
            f"to follow links through {n_tokens} tokens {needed / 2**20:.0f} MiB are needed, the budget is "
            f"{budget / 2**20:.0f} MiB; shorten the prompt or give a larger memory_budget"
        )
    groups = [
        attention_values(result.attention_neurons.head(extent.values), language_model),
        ffn_values(result.ffn_neurons.head(extent.values), language_model, n_tokens - 1),
    ]
    components = capture_components(
        language_model.model, structure, result.token_ids, range(n_tokens), calls=True
    )
    with torch.no_grad():
        return GraphBuilder(structure, components, extent.depth, extent.width).build(groups)


def tables_of(graph: Graph, d_head: int, tokens: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the nodes and the edges of a graph as tables, the strongest first."""
    kind, layer, number, reads, writes = graph.place.T
    columns = {
        "id": [name_of(place, d_head) for place in graph.place.tolist()],
        "kind": [NodeKind(i).word for i in kind],
        "layer": _known(layer, layer >= 0),
        "neuron": _known(number, kind == NodeKind.FFN),
        "head": _known(
            np.where(kind == NodeKind.ATTENTION, number // d_head, number),
            np.isin(kind, (NodeKind.HEAD, NodeKind.ATTENTION)),
        ),
        "dim": _known(number % d_head, kind == NodeKind.ATTENTION),
        "position": reads,
        "token": [tokens[position] for position in reads],
        "writes": writes,
        **graph.nodes,
    }
    nodes = pd.DataFrame(columns, columns=list(NODE_COLUMNS))
    edges = pd.concat(graph.edges)
    names = nodes["id"].to_numpy()
    edges = edges.assign(source=names[edges["source"]], target=names[edges["target"]]).filter(EDGE_COLUMNS)
    return _strongest_first(nodes, graph.score), _strongest_first(edges, np.asarray(edges["score"]))


def _strongest_first(table: pd.DataFrame, score: np.ndarray) -> pd.DataFrame:
    return table.iloc[np.argsort(-np.abs(score), kind="stable")].reset_index(drop=True)


def _known(numbers: np.ndarray, known: np.ndarray) -> pd.Series:
    """Return whole numbers as a column that lacks those that are not known."""
    return pd.Series(numbers).astype("Int64").where(known)


def name_of(place: Sequence[int], d_head: int) -> str:
    """Name a node, such as `ffn 24.1005 @7` or `head 23.4 @3>7` (reads position 3, writes position 7)."""
    kind, layer, number, reads, writes = place
    at = f"@{writes}" if reads == writes else f"@{reads}>{writes}"
    if kind in (NodeKind.EMBEDDINGS, NodeKind.BIASES):
        return f"{NodeKind(kind).word} {at}"
    index = f"{number // d_head}.{number % d_head}" if kind == NodeKind.ATTENTION else number
    return f"{NodeKind(kind).word} {layer}.{index} {at}"


def share_explained(graph: Graph) -> float:
    """Compute the share of all value neurons' scores that the edges to them explain."""
    roots = graph.nodes["depth"] == 0
    score, explained = graph.score[roots].tolist(), np.nan_to_num(graph.nodes["explained"][roots]).tolist()
    total = sum(score)
    return sum(map(operator.mul, score, explained)) / total if total else 0.0
