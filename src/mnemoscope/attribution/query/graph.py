"""The query graph: value neurons and what activates them, several steps back.

Every node reads the stream at one position with one vector, scaled so that its inner products with the
components sum to the node's score: for a neuron that is its subkeys divided by the sum of their inner
products, times its score; for a head it is what its readers read, pulled back through the output and value
maps with the attention weight held fixed. The strongest components become nodes in turn. Layers are worked
through from the last one down, so that a node has its whole score before it is taken apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mnemoscope.attribution.query.scores import (
    Subkeys,
    ValueNeurons,
    inner_products,
    input_projections_of,
    subkeys,
    value_index,
)
from mnemoscope.model.activations import ResidualDecomposition
from mnemoscope.model.structure import ModelStructure

NodeKind = Literal["ffn", "attention", "head", "embeddings", "biases"]


# What can be at the end of a link, by the number that stands for it in a code.
_SOURCES: tuple[NodeKind, ...] = ("ffn", "head", "embeddings", "biases")


class NodePlace(NamedTuple):
    """Which node.

    Attributes:
        kind: of the node.
        layer: -1 for embeddings and biases.
        number: FFN neuron, head * d_head + dim, or head; 0 for embeddings and biases.
        reads: the position at which it reads the stream.
        writes: the position at which it writes to it.
    """

    kind: NodeKind
    layer: int
    number: int
    reads: int
    writes: int


@dataclass(eq=False)
class Node:
    """A part of the prediction and how much of the value neurons' scores goes through it.

    Attributes:
        depth: steps from the nearest value neuron.
        value_score: its own log-probability increase if it is one of the value neurons, nats.
        query_score: what it gives to the nodes that read it, nats.
        explained: the share of its score that the links to it explain; None if it was not taken apart.
        skipped: whether it could not be, because its components cancel.
        pulled: for a head, what its readers read of each of its values, `[d_head]`.
    """

    depth: int
    value_score: float = 0.0
    query_score: float = 0.0
    explained: float | None = None
    skipped: bool = False
    pulled: Tensor | None = None

    @property
    def score(self) -> float:
        """Both scores together, nats."""
        return self.value_score + self.query_score


@dataclass(frozen=True)
class Edge:
    """One node gives to what another reads.

    Attributes:
        source: the node that writes.
        target: the node that reads.
        score: what goes through, nats.
        share: of the target's score.
        inner_products: of the target's subkeys with the source's vector, by path; raw, in units of the
            pre-activation. Empty if the target is a head, which has no pre-activation of its own.
    """

    source: NodePlace
    target: NodePlace
    score: float
    share: float
    inner_products: dict[str, float]


@dataclass
class Graph:
    """Nodes and edges, in the order in which they were found."""

    nodes: dict[NodePlace, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Readings:
    """Nodes of one layer that read the same state.

    Attributes:
        places: the nodes.
        keys: scaled so that inner products are scores, `[n, d_model]`.
        position: where they read, `[n]`.
        constants: the part of their scores that they have whatever the stream holds, `[n]`.
        subkeys: of neurons, whose rows belong to these nodes; None for heads.
    """

    places: Sequence[NodePlace]
    keys: Tensor
    position: Tensor
    constants: Tensor
    subkeys: Subkeys | None


class Linker:
    """Follows value neurons back through the stream."""

    def __init__(
        self, structure: ModelStructure, components: ResidualDecomposition, depth: int, width: int
    ) -> None:
        """Prepare for one prompt.

        Args:
            structure: of the model.
            components: of the prompt, at every position and with its attention calls.
            depth: how many steps to go back.
            width: how many links to keep of each node.
        """
        self.structure, self.components, self.depth, self.width = structure, components, depth, width
        self.readers = input_projections_of(structure)
        self.graph = Graph()

    def link(self, groups: Sequence[ValueNeurons]) -> Graph:
        """The graph of value neurons."""
        last = len(self.components.positions) - 1
        for group in groups:
            columns = (group.layer, group.index, group.position)
            for layer, index, position, score in zip(
                *(column.tolist() for column in columns), group.score.tolist(), strict=True
            ):
                place = NodePlace(group.kind, layer, index, position, last)
                self.graph.nodes[place] = Node(depth=0, value_score=score)
        for layer in reversed(range(self.components.n_layers)):
            # In sequential blocks an FFN reads what the attention of its layer wrote, so it comes first.
            for kind in ("ffn", "attention", "head"):
                places = self._to_take_apart(layer, kind)
                if places:
                    self._take_apart(self._read(places))
        return self.graph

    def _to_take_apart(self, layer: int, kind: NodeKind) -> list[NodePlace]:
        return [
            place
            for place, node in self.graph.nodes.items()
            if place.layer == layer and place.kind == kind and node.depth < self.depth
        ]

    def _read(self, places: list[NodePlace]) -> _Readings:
        return self._read_heads(places) if places[0].kind == "head" else self._read_neurons(places)

    def _read_neurons(self, places: list[NodePlace]) -> _Readings:
        device = self.components.positions.device
        layer, index, position = (
            torch.tensor([place[i] for place in places], device=device) for i in (1, 2, 3)
        )
        score = torch.tensor([self.graph.nodes[place].score for place in places], device=device)
        kind = "ffn" if places[0].kind == "ffn" else "attention"
        neurons = ValueNeurons(kind, layer, index, position, score)
        read = subkeys(self.structure, self.components, neurons, None)
        products = inner_products(self.components, read)
        skipped = read.neurons_with(products.remainder < read.smallest_remainder)
        for place, is_skipped in zip(places, skipped.tolist(), strict=True):
            self.graph.nodes[place].skipped = is_skipped
        weight = (read.weight / products.total).masked_fill(skipped[read.neuron], 0.0).float()
        keys = torch.zeros(len(places), read.keys.shape[1], device=device)
        keys.index_add_(0, read.neuron, read.keys * weight[:, None])
        return _Readings(places, keys, position, torch.zeros_like(score), read)

    def _read_heads(self, places: list[NodePlace]) -> _Readings:
        layer, d_head = places[0].layer, self.structure.d_head
        reader, device = self.readers[layer].value, self.components.positions.device
        head = torch.tensor([place.number for place in places], device=device)
        position = torch.tensor([place.reads for place in places], device=device)
        dims = head[:, None] * d_head + torch.arange(d_head, device=device)
        values = value_index(self.structure, dims.flatten())
        pulled = torch.stack([self._pulled(place) for place in places])
        by_dim = reader.keys(values).view(*dims.shape, -1)
        scale = reader.scale(self.components.resid_pre[layer, position])
        keys = (pulled[:, None] @ by_dim)[:, 0] * scale[:, None]
        constants = (pulled * reader.constants(values).view(dims.shape)).sum(-1)
        return _Readings(places, keys, position, constants, None)

    def _pulled(self, place: NodePlace) -> Tensor:
        pulled = self.graph.nodes[place].pulled
        if pulled is None:
            raise TypeError(f"{place} is no head")
        return pulled

    def _take_apart(self, readings: _Readings) -> None:
        """Link nodes to the strongest of their components."""
        scores, codes = self._strongest(readings)
        for row, target in enumerate(readings.places):
            node = self.graph.nodes[target]
            if node.skipped or node.score == 0:
                continue
            node.explained = 0.0
            for score, code in zip(scores[row].tolist(), codes[row].tolist(), strict=True):
                if score != 0:
                    source = self._place(code, writes=target.reads)
                    share = score / node.score
                    node.explained += share
                    self._give(source, score, node.depth + 1, readings.keys[row])
                    raw = self._inner_products(source, readings, row)
                    self.graph.edges.append(Edge(source, target, score, share, raw))

    def _place(self, code: Sequence[int], writes: int) -> NodePlace:
        kind, layer, number, reads = code
        return NodePlace(_SOURCES[kind], layer, number, reads, writes)

    def _give(self, source: NodePlace, score: float, depth: int, key: Tensor) -> None:
        """Add to a node what one of its readers gets from it."""
        node = self.graph.nodes.setdefault(source, Node(depth))
        node.depth = min(node.depth, depth)
        node.query_score += score
        if source.kind == "head":
            weight = self._attention(source.layer, source.number, source.writes)[source.reads]
            pulled = self._head_columns(source) @ key * weight
            node.pulled = pulled if node.pulled is None else node.pulled + pulled

    def _strongest(self, readings: _Readings) -> tuple[Tensor, Tensor]:
        """The `width` largest components of each node with their signs, and codes of their places.

        Returns:
            `[n, width]` scores in nats and `[n, width, 4]` codes: kind, layer, index, position read.
        """
        found = [self._single(readings, 2, self.components.embeddings), self._biases(readings)]
        for layer in range(readings.places[0].layer + 1):
            if self._sees(readings, layer, attention=True):
                found.append(self._heads(readings, layer))
            if self._sees(readings, layer, attention=False):
                found.append(self._ffn(readings, layer))
        scores, codes = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        order = _largest(scores, self.width)
        return scores.gather(1, order), codes.gather(1, order[..., None].expand(-1, -1, 4))

    def _sees(self, readings: _Readings, layer: int, *, attention: bool) -> bool:
        own, kind = readings.places[0].layer, readings.places[0].kind
        same_layer = attention and kind == "ffn" and not self.structure.parallel
        return layer < own or (same_layer and layer == own)

    def _single(self, readings: _Readings, kind: int, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """A component that there is once at each position, `[n_positions, d_model]`."""
        scores = (readings.keys * vectors[readings.position]).sum(-1, keepdim=True)
        nothing = torch.full_like(readings.position, -1)
        parts = (torch.full_like(nothing, kind), nothing, torch.zeros_like(nothing), readings.position)
        return scores, torch.stack(parts, dim=-1)[:, None]

    def _biases(self, readings: _Readings) -> tuple[Tensor, Tensor]:
        """Of all biases together, with what the nodes have whatever the stream holds."""
        scores, codes = self._single(readings, 3, self._constants(readings))
        return scores + readings.constants[:, None], codes

    def _constants(self, readings: _Readings) -> Tensor:
        """What biases wrote before nodes read, `[n_positions, d_model]`."""
        layers = range(readings.places[0].layer + 1)
        seen = [self.components.embeddings * 0]
        for layer in layers:
            if self._sees(readings, layer, attention=True):
                seen.append(self.components.attention_constant[layer])
            if self._sees(readings, layer, attention=False):
                seen.append(self.components.ffn_constant[layer])
        return torch.stack(seen).sum(0)

    def _ffn(self, readings: _Readings, layer: int) -> tuple[Tensor, Tensor]:
        """The strongest FFN neurons of a layer."""
        coefficients = self.components.ffn_coefficients[layer, readings.position]
        active = torch.nonzero(coefficients.any(0))[:, 0]
        columns = self.structure.blocks[layer].ffn_output.columns(active)
        scores = (readings.keys @ columns.T) * coefficients[:, active]
        order = _largest(scores, self.width)
        position = readings.position[:, None].expand_as(order)
        return scores.gather(1, order), _codes(0, layer, active[order], position)

    def _heads(self, readings: _Readings, layer: int) -> tuple[Tensor, Tensor]:
        """The strongest heads of a layer, by the position that they bring something from."""
        n_heads, d_head = self.structure.n_heads, self.structure.d_head
        columns = self.structure.blocks[layer].attention_output.columns()
        factors = self._factors(layer)[readings.position]
        by_dim = (readings.keys @ columns.T * factors).view(-1, n_heads, d_head)
        brought = torch.einsum("nhd,htd->nht", by_dim, self._values(layer))
        scores = brought * self._patterns(layer)[readings.position]
        order = _largest(scores.flatten(1), self.width)
        n_tokens = scores.shape[2]
        head = order.div(n_tokens, rounding_mode="floor")
        return scores.flatten(1).gather(1, order), _codes(1, layer, head, order % n_tokens)

    def _patterns(self, layer: int) -> Tensor:
        """Attention weights of what heads bring, `[n_tokens (writes), n_heads, n_tokens (reads)]`."""
        patterns = self.components.calls[layer].patterns()[0].transpose(0, 1)
        return patterns.to(self.structure.device)

    def _factors(self, layer: int) -> Tensor:
        """Of the frozen norms around the output projection, `[n_tokens (writes), n_heads * d_head]`."""
        return self.components.head_factors[layer] * self.components.attention_scales[layer, :, None]

    def _attention(self, layer: int, head: int, writes: int) -> Tensor:
        return self._patterns(layer)[writes, head]

    def _values(self, layer: int) -> Tensor:
        """What heads can bring, `[n_heads, n_tokens, d_head]`."""
        values = self.components.calls[layer].value[0].float().to(self.structure.device)
        return values.repeat_interleave(self.structure.n_heads // len(values), dim=0)

    def _head_columns(self, source: NodePlace) -> Tensor:
        """What each dim of a head writes where it does, by the value that it brings, `[d_head, d_model]`."""
        dims = torch.arange(self.structure.d_head, device=self.components.positions.device)
        dims = source.number * self.structure.d_head + dims
        columns = self.structure.blocks[source.layer].attention_output.columns(dims)
        return columns * self._factors(source.layer)[source.writes, dims][:, None]

    def _inner_products(self, source: NodePlace, readings: _Readings, row: int) -> dict[str, float]:
        """Of the subkeys of one node with what a source writes."""
        if readings.subkeys is None:
            return {}
        own = torch.nonzero(readings.subkeys.neuron == row)[:, 0]
        products = readings.subkeys.keys[own] @ self._vector(source, readings)
        paths = (readings.subkeys.path[i] for i in own.tolist())
        return dict(zip(paths, products.tolist(), strict=True))

    def _vector(self, source: NodePlace, readings: _Readings) -> Tensor:
        """What a source writes where it is read, `[d_model]`."""
        if source.kind == "ffn":
            index = torch.tensor([source.number], device=readings.position.device)
            column = self.structure.blocks[source.layer].ffn_output.columns(index)[0]
            return column * self.components.ffn_coefficients[source.layer, source.writes, source.number]
        if source.kind == "head":
            values = self._values(source.layer)[source.number, source.reads]
            weight = self._attention(source.layer, source.number, source.writes)[source.reads]
            return values @ self._head_columns(source) * weight
        if source.kind == "embeddings":
            return self.components.embeddings[source.writes]
        return self._constants(readings)[source.writes]


def _largest(scores: Tensor, width: int) -> Tensor:
    """Indices of the largest absolute values of each row, `[n, m] -> [n, min(width, m)]`."""
    return scores.abs().topk(min(width, scores.shape[1]), dim=1).indices


def _codes(kind: int, layer: int, index: Tensor, reads: Tensor) -> Tensor:
    """Codes of places, `[n, m] -> [n, m, 4]`."""
    same = torch.full_like(index, layer)
    return torch.stack([torch.full_like(index, kind), same, index, reads], dim=-1)
