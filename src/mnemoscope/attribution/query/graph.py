"""The query graph: value neurons and what activates them, several steps back (docs/method.md#query-score).

Every node reads the stream at one position with one vector, scaled so that its inner products with the
components sum to the node's score: for a neuron that is its subkeys divided by the sum of their inner
products, times its score; for a head it is what its readers read, pulled back through the output and value
maps with the attention weight held fixed. The strongest components become nodes in turn. Layers are worked
through from the last one down, so that a node has its whole score before it is taken apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad

from mnemoscope.attribution.query.scores import (
    Subkeys,
    ValueNeurons,
    inner_products,
    input_projections_of,
    subkeys,
    value_index,
)
from mnemoscope.model.components import ResidualDecomposition
from mnemoscope.model.structure import ModelStructure
from mnemoscope.results.columns import EDGE_COLUMNS


class NodeKind(IntEnum):
    """Kinds of nodes, by the number that stands for each in a place."""

    FFN = 0
    HEAD = 1
    EMBEDDINGS = 2
    BIASES = 3
    ATTENTION = 4

    @property
    def word(self) -> str:
        """The kind as tables name it."""
        return self.name.lower()


# Columns of the nodes, with what they are for a node that was just found.
_NEW = {"depth": 10**9, "value_score": 0.0, "query_score": 0.0, "explained": np.nan, "skipped": False}


class Graph:
    """Nodes and edges of a query graph, in the order in which they were found.

    Attributes:
        place: `[n_nodes, 5]`: kind; layer (-1 for embeddings and biases); FFN neuron, `head * d_head + dim`
            or head (else 0); the position where the node reads the stream, and that where it writes to it.
        nodes: columns of the nodes, `[n_nodes]` each. `depth`: steps from the nearest value neuron;
            `value_score`: a value neuron's log-probability increase and `query_score`: what the node gives to
            its readers, nats; `explained`: the share of both that the edges to it explain (NaN if it was not
            taken apart); `skipped`: whether it could not be, because its components cancel.
        pulled: what the readers of each head read of each of its values, `[n_nodes, d_head]`.
        edges: tables with the rows of `place` of `source` (writes) and `target` (reads), the `score` that
            goes through in nats, its `share` of the target's score, and the raw `inner_product` and
            `gate_inner_product` with the target's subkeys, NaN for paths that it does not have.
    """

    def __init__(self, d_head: int, device: torch.device) -> None:
        self._row: dict[tuple[int, ...], int] = {}
        self.place = np.empty((0, 5), dtype=int)
        self.nodes = {name: np.full(0, value) for name, value in _NEW.items()}
        self.pulled = torch.empty(0, d_head, device=device)
        empty = {name: np.empty(0, int if name in ("source", "target") else float) for name in EDGE_COLUMNS}
        self.edges = [pd.DataFrame(empty)]

    @property
    def score(self) -> np.ndarray:
        """Both scores of every node together, `[n_nodes]`, nats."""
        return self.nodes["value_score"] + self.nodes["query_score"]

    def rows(self, places: Tensor) -> np.ndarray:
        """Return the rows of places `[n, 5]`, which are made nodes if they are none yet."""
        found = [self._row.setdefault(place, len(self._row)) for place in map(tuple, places.tolist())]
        n_old, n_new = len(self.place), len(self._row) - len(self.place)
        self.place = np.concatenate([self.place, np.array([*self._row][n_old:], dtype=int).reshape(-1, 5)])
        self.nodes = {
            name: np.concatenate([values, np.full(n_new, _NEW[name])]) for name, values in self.nodes.items()
        }
        self.pulled = pad(self.pulled, (0, 0, 0, n_new))
        return np.array(found, dtype=int)


@dataclass(frozen=True, eq=False)
class _Readings:
    """Nodes of one kind in one layer, as they read the stream.

    Attributes:
        kind, layer: of the nodes.
        rows: their rows in the graph, `[n]`.
        keys: scaled so that inner products are scores, `[n, d_model]`.
        position: the position where each reads, `[n]`.
        constants: the part of their scores that does not depend on the stream, `[n]`.
        subkeys: of neurons, whose numbers are places in `rows`; None for heads.
    """

    kind: NodeKind
    layer: int
    rows: np.ndarray
    keys: Tensor
    position: Tensor
    constants: Tensor
    subkeys: Subkeys | None

    def by_path(self, path: str) -> Tensor | None:
        """Return the nodes' subkeys of a path, `[n, d_model]`; None if they have no such path."""
        if self.subkeys is None or path not in self.subkeys.path:
            return None
        some = torch.tensor([name == path for name in self.subkeys.path], device=self.keys.device)
        return torch.zeros_like(self.keys).index_copy_(0, self.subkeys.neuron[some], self.subkeys.keys[some])


class GraphBuilder:
    """Follows value neurons back through the stream."""

    def __init__(
        self, structure: ModelStructure, components: ResidualDecomposition, depth: int, width: int
    ) -> None:
        """Prepare for one prompt.

        Args:
            structure: the model's structure.
            components: of the prompt, at every position and with its attention calls.
            depth: how many steps to go back.
            width: how many edges to keep of each node.
        """
        self.structure, self.components, self.depth, self.width = structure, components, depth, width
        self.device = components.positions.device
        self.graph = Graph(structure.d_head, self.device)

    def build(self, groups: Sequence[ValueNeurons]) -> Graph:
        """Return the graph of value neurons."""
        graph = self.graph
        for group in groups:
            kind = torch.full_like(group.layer, NodeKind[group.kind.upper()])
            last = torch.full_like(kind, len(self.components.positions) - 1)
            rows = graph.rows(torch.stack([kind, group.layer, group.index, group.position, last], dim=1))
            graph.nodes["depth"][rows] = 0
            graph.nodes["value_score"][rows] = group.score.cpu().numpy()
        for layer in reversed(range(self.components.n_layers)):
            # In sequential blocks an FFN reads what the attention of its layer wrote, so it comes first.
            for kind in (NodeKind.FFN, NodeKind.ATTENTION, NodeKind.HEAD):
                is_here = (graph.place[:, 0] == kind) & (graph.place[:, 1] == layer)
                rows = np.flatnonzero(is_here & (graph.nodes["depth"] < self.depth))
                if len(rows):
                    read = self._read_heads if kind == NodeKind.HEAD else self._read_neurons
                    self._take_apart(read(kind, layer, rows))
        return graph

    def _read_neurons(self, kind: NodeKind, layer: int, rows: np.ndarray) -> _Readings:
        _, layers, index, position, _ = torch.from_numpy(self.graph.place[rows].T.copy()).to(self.device)
        score = torch.tensor(self.graph.score[rows], dtype=torch.float32, device=self.device)
        neurons = ValueNeurons("ffn" if kind == NodeKind.FFN else "attention", layers, index, position, score)
        read = subkeys(self.structure, self.components, neurons, None)
        products = inner_products(self.components, read)
        self.graph.nodes["skipped"][rows] = products.skipped.cpu().numpy()
        keys = torch.zeros(len(rows), read.keys.shape[1], device=self.device)
        keys.index_add_(0, read.neuron, read.keys * products.share.float()[:, None])
        return _Readings(kind, layer, rows, keys, position, torch.zeros_like(score), read)

    def _read_heads(self, kind: NodeKind, layer: int, rows: np.ndarray) -> _Readings:
        _, _, head, position, _ = torch.from_numpy(self.graph.place[rows].T.copy()).to(self.device)
        reader, d_head = input_projections_of(self.structure)[layer].value, self.structure.d_head
        dims = head[:, None] * d_head + torch.arange(d_head, device=self.device)
        values = value_index(self.structure, dims.flatten())
        pulled = self.graph.pulled[torch.from_numpy(rows).to(self.device)]
        by_dim = reader.keys(values).view(*dims.shape, -1)
        scale = reader.scale(self.components.resid_pre[layer, position])
        keys = (pulled[:, None] @ by_dim)[:, 0] * scale[:, None]
        constants = (pulled * reader.constants(values).view(dims.shape)).sum(-1)
        return _Readings(kind, layer, rows, keys, position, constants, None)

    def _take_apart(self, readings: _Readings) -> None:
        """Link nodes to the strongest of their components."""
        graph, biases = self.graph, self._biases(readings)
        total = graph.score[readings.rows]
        apart = ~graph.nodes["skipped"][readings.rows] & (total != 0)
        graph.nodes["explained"][readings.rows[apart]] = 0.0
        scores, codes = self._strongest(readings, biases)
        kept = (scores != 0) & torch.from_numpy(apart).to(scores.device)[:, None]
        node = torch.nonzero(kept)[:, 0]
        place = torch.cat([codes[kept], readings.position[node, None]], dim=1)
        number, score = node.cpu().numpy(), scores[kept].double().cpu().numpy()
        source, target = graph.rows(place), readings.rows[number]
        share = score / total[number]
        np.add.at(graph.nodes["explained"], target, share)
        np.add.at(graph.nodes["query_score"], source, score)
        np.minimum.at(graph.nodes["depth"], source, graph.nodes["depth"][target] + 1)
        for layer, some in _by_layer(place, NodeKind.HEAD):
            pulled = self._by_dim(readings.keys, layer, node[some], place[some])
            pulled *= self._weights(layer, place[some])
            graph.pulled.index_add_(0, torch.from_numpy(source).to(self.device)[some], pulled)
        edges = {"source": source, "target": target, "score": score, "share": share}
        for name, paths in (("inner_product", ("value", "up")), ("gate_inner_product", ("gate",))):
            keys = next((keys for path in paths if (keys := readings.by_path(path)) is not None), None)
            products = np.nan if keys is None else self._products(keys, node, place, biases).cpu().numpy()
            edges[name] = np.broadcast_to(products, len(score)).astype(float)
        graph.edges.append(pd.DataFrame(edges))

    def _strongest(self, readings: _Readings, biases: Tensor) -> tuple[Tensor, Tensor]:
        """Find the `width` largest components of each node, whatever their sign.

        Returns:
            `[n, width]` scores in nats and `[n, width, 4]` places: kind, layer, number, position read.
        """
        position = readings.position[:, None]
        found = []
        for kind, vectors, constants in (
            (NodeKind.EMBEDDINGS, self.components.embeddings, torch.zeros_like(readings.constants)),
            (NodeKind.BIASES, biases, readings.constants),
        ):
            scores = (readings.keys * vectors[readings.position]).sum(-1) + constants
            found.append((scores[:, None], _places(kind, -1, torch.zeros_like(position), position)))
        for layer, kind in self._seen(readings):
            found.append((self._heads if kind == NodeKind.HEAD else self._ffn)(readings, layer))
        scores, places = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        order = _largest(scores, self.width)
        return scores.gather(1, order), places.gather(1, order[..., None].expand(-1, -1, 4))

    def _seen(self, readings: _Readings) -> Iterator[tuple[int, NodeKind]]:
        """Yield layer and kind (head or FFN) of all that wrote to the stream before nodes read it."""
        for layer in range(readings.layer):
            yield layer, NodeKind.HEAD
            yield layer, NodeKind.FFN
        if readings.kind == NodeKind.FFN and not self.structure.parallel:
            yield readings.layer, NodeKind.HEAD

    def _biases(self, readings: _Readings) -> Tensor:
        """Add up what biases wrote before nodes read, `[n_positions, d_model]`."""
        components = self.components
        by_kind = {NodeKind.HEAD: components.attention_constant, NodeKind.FFN: components.ffn_constant}
        seen = [by_kind[kind][layer] for layer, kind in self._seen(readings)]
        return torch.stack([torch.zeros_like(components.embeddings), *seen]).sum(0)

    def _ffn(self, readings: _Readings, layer: int) -> tuple[Tensor, Tensor]:
        """Find the strongest FFN neurons of a layer."""
        coefficients = self.components.ffn_coefficients[layer, readings.position]
        active = torch.nonzero(coefficients.any(0))[:, 0]
        columns = self.structure.blocks[layer].ffn_output.columns(active)
        scores = (readings.keys @ columns.T) * coefficients[:, active]
        order = _largest(scores, self.width)
        position = readings.position[:, None].expand_as(order)
        return scores.gather(1, order), _places(NodeKind.FFN, layer, active[order], position)

    def _heads(self, readings: _Readings, layer: int) -> tuple[Tensor, Tensor]:
        """Find the strongest heads of a layer, by the position from which they bring something."""
        by_dim = self._by_head(readings.keys, layer) * self._factors(layer)[readings.position]
        brought = torch.einsum("nhd,htd->nht", by_dim, self._values(layer))
        scores = brought * self._patterns(layer)[readings.position]
        order = _largest(scores.flatten(1), self.width)
        n_tokens = scores.shape[2]
        head = order // n_tokens
        return scores.flatten(1).gather(1, order), _places(NodeKind.HEAD, layer, head, order % n_tokens)

    def _products(self, keys: Tensor, node: Tensor, place: Tensor, biases: Tensor) -> Tensor:
        """Compute the inner products of the targets' keys with what the sources write, `[n_edges]`.

        Args:
            keys: of the nodes that read, `[n, d_model]`.
            node: number of each edge's target among them, `[n_edges]`.
            place: of each edge's source, `[n_edges, 5]`.
            biases: what they wrote, `[n_positions, d_model]`.
        """
        found = torch.zeros(len(node), device=self.device)
        for kind, vectors in ((NodeKind.EMBEDDINGS, self.components.embeddings), (NodeKind.BIASES, biases)):
            some = torch.nonzero(place[:, 0] == kind)[:, 0]
            found[some] = (keys[node[some]] * vectors[place[some, 4]]).sum(-1)
        for layer, some in _by_layer(place, NodeKind.FFN):
            _, _, neuron, _, writes = place[some].unbind(1)
            number, column = neuron.unique(return_inverse=True)
            columns = self.structure.blocks[layer].ffn_output.columns(number)
            coefficients = self.components.ffn_coefficients[layer, writes, neuron]
            found[some] = (keys @ columns.T)[node[some], column] * coefficients
        for layer, some in _by_layer(place, NodeKind.HEAD):
            _, _, head, reads, _ = place[some].unbind(1)
            brought = self._by_dim(keys, layer, node[some], place[some]) * self._values(layer)[head, reads]
            found[some] = brought.sum(-1) * self._weights(layer, place[some])[:, 0]
        return found

    def _by_dim(self, keys: Tensor, layer: int, node: Tensor, place: Tensor) -> Tensor:
        """Compute what the targets' keys read of each value of the sources, some heads, `[n, d_head]`."""
        _, _, head, _, writes = place.unbind(1)
        return self._by_head(keys, layer)[node, head] * self._factors(layer)[writes, head]

    def _by_head(self, keys: Tensor, layer: int) -> Tensor:
        """Multiply keys with the columns of the output projection, `[n, n_heads, d_head]`."""
        columns = self.structure.blocks[layer].attention_output.columns()
        return (keys @ columns.T).view(-1, self.structure.n_heads, self.structure.d_head)

    def _factors(self, layer: int) -> Tensor:
        """Return factors of the norms around the projection, `[n_tokens (writes), n_heads, d_head]`."""
        factors = self.components.head_factors[layer] * self.components.attention_scales[layer, :, None]
        return factors.unflatten(1, (self.structure.n_heads, self.structure.d_head))

    def _patterns(self, layer: int) -> Tensor:
        """Return attention weights, `[n_tokens (writes), n_heads, n_tokens (reads)]`."""
        patterns = self.components.calls[layer].patterns()[0].transpose(0, 1)
        return patterns.to(self.structure.device)

    def _weights(self, layer: int, place: Tensor) -> Tensor:
        """Return the attention weights of sources, some heads, `[n, 1]`."""
        _, _, head, reads, writes = place.unbind(1)
        return self._patterns(layer)[writes, head, reads, None]

    def _values(self, layer: int) -> Tensor:
        """Return the values of heads, `[n_heads, n_tokens, d_head]`."""
        values = self.components.calls[layer].value[0].float().to(self.structure.device)
        return values.repeat_interleave(self.structure.n_heads // len(values), dim=0)


def _by_layer(place: Tensor, kind: NodeKind) -> Iterator[tuple[int, Tensor]]:
    """Yield each layer with places `[n, 5]` of a kind, and which of the places are there."""
    is_kind = place[:, 0] == kind
    for layer in place[is_kind, 1].unique().tolist():
        yield layer, torch.nonzero(is_kind & (place[:, 1] == layer))[:, 0]


def _largest(scores: Tensor, width: int) -> Tensor:
    """Return indices of the largest absolute values of each row, `[n, m] -> [n, min(width, m)]`."""
    return scores.abs().topk(min(width, scores.shape[1]), dim=1).indices


def _places(kind: NodeKind, layer: int, number: Tensor, reads: Tensor) -> Tensor:
    """Join kind, layer, number and position read, `[n, m] -> [n, m, 4]`."""
    same = torch.full_like(number, layer)
    return torch.stack([torch.full_like(number, kind), same, number, reads], dim=-1)
