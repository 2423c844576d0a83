"""Query scores (docs/method.md#query-score).

A value neuron reads the stream with a subkey. The inner products of the subkey with the components of the
stream give each component a share, and the query score of a component is the sum over value neurons of their
score times its share. The subkeys that read at one position are added up first, each weighted with
`score / sum of inner products`, so that the components are projected once for all value neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.components import ResidualDecomposition
from mnemoscope.model.input_projections import InputProjections, Path
from mnemoscope.model.structure import ModelStructure
from mnemoscope.results.parts import NeuronKind
from mnemoscope.results.query import Key

SMALLEST_REMAINDER = 1e-2
# Order along the axis of a layer's two outputs.
_WRITTEN: tuple[NeuronKind, ...] = ("attention", "ffn")


def input_projections_of(structure: ModelStructure) -> tuple[InputProjections, ...]:
    """Return the input projections of every layer.

    Raises:
        UnsupportedModelError: those of some layer could not be found.
    """
    missing = [layer for layer, block in enumerate(structure.blocks) if block.input_projections is None]
    if missing:
        raise UnsupportedModelError(
            f"what the neurons of layer {missing[0]} read of the residual stream could not be found, so what "
            "activates them is not known; value neurons and interventions work without it"
        )
    return tuple(block.input_projections for block in structure.blocks if block.input_projections is not None)


@dataclass(frozen=True, eq=False)
class ValueNeurons:
    """Value neurons of one kind.

    Attributes:
        kind: of the neurons.
        layer: `[n]`.
        index: FFN neuron, or head * d_head + dim, `[n]`.
        position: position where each reads the stream, `[n]`.
        score: log-probability increase, `[n]`, nats.
    """

    kind: NeuronKind
    layer: Tensor
    index: Tensor
    position: Tensor
    score: Tensor


@dataclass(frozen=True, eq=False)
class Subkeys:
    """Subkeys of value neurons; gated FFN neurons have two paths, each with a subkey.

    Attributes:
        neuron: number of the value neuron, `[n]`.
        path: `"value"`, `"up"`, `"gate"` or `"down"`, by row.
        keys: subkeys with the norm's weight and frozen scale, `[n, d_model]`: the inner product with a
            component is what it adds to the pre-activation.
        constants: biases of the pre-activation, `[n]`.
        layer: of the neuron, `[n]`.
        position: index among the positions of the components, `[n]`.
        after_attention: whether they read the output of their own layer's attention.
        weight: score of the neuron in nats, shared equally among its paths, `[n]`.
        n_paths: of each value neuron, `[n_value_neurons]`.
        smallest_remainder: a neuron is skipped if its components cancel to less than this share of their
            magnitudes, because rounding would dominate its shares.
    """

    neuron: Tensor
    path: tuple[Path, ...]
    keys: Tensor
    constants: Tensor
    layer: Tensor
    position: Tensor
    after_attention: bool
    weight: Tensor
    n_paths: Tensor
    smallest_remainder: float

    def sees(self, n_layers: int) -> Tensor:
        """Return whether each layer's attention and FFN output is read, `[n, n_layers, 2]`."""
        layers = torch.arange(n_layers, device=self.layer.device)
        ffn = layers < self.layer[:, None]
        attention = layers <= self.layer[:, None] if self.after_attention else ffn
        return torch.stack([attention, ffn], dim=-1)


def subkeys(
    structure: ModelStructure, components: ResidualDecomposition, neurons: ValueNeurons, key: Key | None
) -> Subkeys:
    """Compute the subkeys of value neurons.

    Args:
        structure: the model's structure.
        components: at the neurons' positions.
        neurons: the value neurons.
        key: path of gated FFN neurons; None takes half of the gate's and half of the up path's shares.
            `"down"` takes the column of the down projection and skips no neuron, as the authors' Llama
            notebook does, for reproduction only: no neuron reads it.

    Raises:
        UnsupportedModelError: the input projections could not be found.
    """
    position = components.index(neurons.position)
    projections = input_projections_of(structure)
    none = torch.zeros(0, device=position.device)
    pieces = [(none.long(), [], none.reshape(0, structure.d_model), none)]  # there may be no neurons
    for layer in neurons.layer.unique().tolist():
        rows = torch.nonzero(neurons.layer == layer)[:, 0]
        states = state_read(structure, components, neurons.kind, layer)[position[rows]]
        for path in _paths(neurons.kind, projections[layer], key):
            read = _read(structure, projections[layer], layer, neurons.index[rows], states, path)
            pieces.append((rows, [path] * len(rows), *read))
    every_row, paths, keys, constants = zip(*pieces, strict=True)
    rows = torch.cat(every_row)
    n_paths = torch.bincount(rows, minlength=len(neurons.layer))
    return Subkeys(
        neuron=rows,
        path=tuple(chain.from_iterable(paths)),
        keys=torch.cat(keys),
        constants=torch.cat(constants),
        layer=neurons.layer[rows],
        position=position[rows],
        after_attention=neurons.kind == "ffn" and not structure.parallel,
        weight=neurons.score[rows] / n_paths[rows],
        n_paths=n_paths,
        smallest_remainder=0.0 if key == "down" and neurons.kind == "ffn" else SMALLEST_REMAINDER,
    )


def _paths(kind: NeuronKind, projections: InputProjections, key: Key | None) -> Sequence[Path]:
    if kind == "attention":
        return ("value",)
    available = projections.ffn
    return tuple(available) if key is None or (key == "gate" and "gate" not in available) else (key,)


def _read(
    structure: ModelStructure,
    projections: InputProjections,
    layer: int,
    index: Tensor,
    states: Tensor,
    path: Path,
) -> tuple[Tensor, Tensor]:
    """Return scaled subkeys `[n, d_model]` and constants `[n]` of neurons of a layer that read states."""
    if path == "down":
        columns = structure.blocks[layer].ffn_output.columns(index)
        norm = projections.up.norm
        keys = columns if norm is None else norm.centre(columns * norm.weight)
        projection, constants = projections.up, torch.zeros(len(index), device=keys.device)
    else:
        projection = projections.value if path == "value" else projections.ffn[path]
        index = value_index(structure, index) if path == "value" else index
        keys, constants = projection.keys(index), projection.constants(index)
    return keys * projection.scale(states)[:, None], constants


def value_index(structure: ModelStructure, index: Tensor) -> Tensor:
    """Return the values (of the key/value heads) of attention neurons `head * d_head + dim`, `[n] -> [n]`."""
    head = index // structure.d_head
    kv_head = head // (structure.n_heads // structure.n_kv_heads)
    return kv_head * structure.d_head + index % structure.d_head


def state_read(
    structure: ModelStructure, components: ResidualDecomposition, kind: NeuronKind, layer: int
) -> Tensor:
    """Return the states that neurons of a kind read in a layer, `[n_positions, d_model]`."""
    states = components.resid_pre[layer]
    return states + components.attention_out[layer] if kind == "ffn" and not structure.parallel else states


@dataclass(frozen=True, eq=False)
class InnerProducts:
    """Inner products of subkeys with the components; 0 for those written later.

    Attributes:
        subkeys: the subkeys.
        embeddings: `[n]`.
        layers: with the outputs of attention and FFN, biases included, `[n, n_layers, 2]`.
    """

    subkeys: Subkeys
    embeddings: Tensor
    layers: Tensor

    @cached_property
    def total(self) -> Tensor:
        """Sum over all components, `[n]`: the pre-activation without its constant."""
        return self.embeddings + self.layers.sum((1, 2))

    @property
    def remainder(self) -> Tensor:
        """Absolute sum of the components as a share of the sum of their magnitudes, `[n]`."""
        magnitude = self.embeddings.abs() + self.layers.abs().sum((1, 2))
        return self.total.abs() / magnitude.clamp_min(torch.finfo(torch.float32).tiny)

    @cached_property
    def skipped(self) -> Tensor:
        """Whether the components of a path of each value neuron cancel, `[n_value_neurons]`."""
        found = torch.zeros(len(self.subkeys.n_paths), dtype=torch.bool, device=self.total.device)
        found[self.subkeys.neuron[self.remainder < self.subkeys.smallest_remainder]] = True
        return found

    @property
    def share(self) -> Tensor:
        """Factors that turn inner products into scores, `[n]`; 0 for neurons that are skipped."""
        share = self.subkeys.weight / self.total
        return share.masked_fill(self.skipped[self.subkeys.neuron], 0.0)


def inner_products(components: ResidualDecomposition, subkeys: Subkeys) -> InnerProducts:
    """Compute the inner product of each subkey with each component, in float64, as large terms may cancel."""
    n_positions, d_model = components.embeddings.shape
    written = torch.cat([components.embeddings[None], components.attention_out, components.ffn_out])
    products = subkeys.keys.double() @ written.view(-1, d_model).T.double()
    products = products.unflatten(1, (-1, n_positions))
    at_position = products[torch.arange(len(products)), :, subkeys.position]
    layers = at_position[:, 1:].unflatten(1, (2, -1)).transpose(1, 2)
    return InnerProducts(subkeys, at_position[:, 0], layers * subkeys.sees(components.n_layers))


class QueryScores:
    """Query scores of every component, for several groups of value neurons in one pass over the weights.

    Tensors begin with an axis of groups and an axis of two: the score in nats, and the mean over all value
    neurons, skipped ones too, of the inner product towards the sign of its neuron's sum.
    """

    def __init__(
        self, structure: ModelStructure, components: ResidualDecomposition, groups: Sequence[Subkeys]
    ) -> None:
        """Compute the inner products.

        Args:
            structure: the model's structure.
            components: of the prompt, at the positions where the value neurons read.
            groups: the subkeys of each group of value neurons.
        """
        self.structure, self.components = structure, components
        self.products = [inner_products(components, group) for group in groups]
        self._weights = [_weights(products) for products in self.products]
        self._pooled = torch.stack([self._pool(*group) for group in zip(groups, self._weights, strict=True)])

    @cached_property
    def embeddings(self) -> Tensor:
        """Scores of the token and position embeddings, `[n_groups, 2]`."""
        weighted = zip(self._weights, self.products, strict=True)
        return torch.stack([weights @ products.embeddings.float() for weights, products in weighted])

    @cached_property
    def layers(self) -> Tensor:
        """Scores of attention and FFN outputs, biases included, `[n_groups, 2, n_layers, 2]`."""
        return self._with(self.components.attention_out, self.components.ffn_out)

    @cached_property
    def biases(self) -> Tensor:
        """Part of `layers` that belongs to biases, `[n_groups, 2, n_layers, 2]`."""
        return self._with(self.components.attention_constant, self.components.ffn_constant)

    @cached_property
    def attention_neurons(self) -> Tensor:
        """Scores of attention neurons, positions added up, `[n_groups, 2, n_layers, n_heads * d_head]`."""
        return self._neurons("attention")

    @cached_property
    def heads(self) -> Tensor:
        """Scores of heads, `[n_groups, 2, n_layers, n_heads]`."""
        by_head = (self.structure.n_heads, self.structure.d_head)
        return self.attention_neurons.unflatten(-1, by_head).sum(-1)

    @cached_property
    def ffn_neurons(self) -> Tensor:
        """Scores of FFN neurons, `[n_groups, 2, n_layers, d_ff]`."""
        return self._neurons("ffn")

    def by_position(self, group: int, kind: NeuronKind, layer: Tensor, index: Tensor) -> Tensor:
        """Return the scores of chosen neurons by the position where they are read, `[n, n_positions]`, nats.

        Args:
            group: number of the group of value neurons.
            kind: of the neurons.
            layer: of the neurons, `[n]`.
            index: of the neurons in their layers, `[n]`.
        """
        columns = torch.empty(len(layer), self._pooled.shape[-1], device=layer.device)
        for here in layer.unique().tolist():
            rows = torch.nonzero(layer == here)[:, 0]
            columns[rows] = self.structure.blocks[here].output(kind).columns(index[rows])
        products = (self._pooled[group, 0, layer, _WRITTEN.index(kind)] @ columns[..., None])[..., 0]
        return products * self.components.coefficients(kind)[layer, :, index]

    def _neurons(self, kind: NeuronKind) -> Tensor:
        """Compute the scores of neurons, `[n_groups, 2, n_layers, n]`; 0 for silent ones."""
        coefficients = self.components.coefficients(kind)
        pooled = self._pooled[:, :, :, _WRITTEN.index(kind)]
        found = pooled.new_zeros(*pooled.shape[:3], coefficients.shape[-1])
        active = coefficients.any(1)
        for layer, n_active in enumerate(active.sum(1).tolist()):
            index = None if n_active == active.shape[1] else torch.nonzero(active[layer])[:, 0]
            columns = self.structure.blocks[layer].output(kind).columns(index)
            products = (pooled[:, :, layer].flatten(0, 2) @ columns.T).unflatten(0, (*pooled.shape[:2], -1))
            some = slice(None) if index is None else index
            found[:, :, layer, some] = (products * coefficients[layer][:, some]).sum(2)
        return found

    def _with(self, attention: Tensor, ffn: Tensor) -> Tensor:
        """Score what attention and FFN wrote, `[n_layers, n_positions, d_model]` each."""
        return (self._pooled * torch.stack([attention, ffn], dim=1)).sum((-1, -2))

    def _pool(self, subkeys: Subkeys, weights: Tensor) -> Tensor:
        """Add up the weighted subkeys that read at a position after something was written.

        Returns:
            `[2, n_layers, 2, n_positions, d_model]`: score and mean; after each layer's attention and FFN.
        """
        n_positions, n_layers = len(self.components.positions), self.components.n_layers
        places = torch.nn.functional.one_hot(subkeys.position, n_positions).T.float()
        sees = subkeys.sees(n_layers).permute(1, 2, 0)
        factors = weights[:, None, None, None] * sees[:, :, None] * places
        return (factors.flatten(0, -2) @ subkeys.keys).view(2, n_layers, 2, n_positions, -1)


def _weights(products: InnerProducts) -> Tensor:
    """Return the weights that turn inner products into scores and means, `[2, n]` float32."""
    n_paths = products.subkeys.n_paths
    mean = products.total.sign() / (len(n_paths) * n_paths[products.subkeys.neuron])
    return torch.stack([products.share, mean]).float()
