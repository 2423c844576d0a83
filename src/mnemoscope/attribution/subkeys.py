"""Subkeys: the vectors with which value neurons read the residual stream (docs/method.md#query-score)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.anatomy import Anatomy
from mnemoscope.model.components import Components
from mnemoscope.model.readers import Path, Readers

Kind = Literal["attention", "ffn"]
Key = Literal["gate", "up", "down"]

SMALLEST_REMAINDER = 1e-2


def readers_of(anatomy: Anatomy) -> tuple[Readers, ...]:
    """What the neurons of every layer read with.

    Raises:
        UnsupportedModelError: in some layer it could not be found.
    """
    missing = [layer for layer, block in enumerate(anatomy.blocks) if block.readers is None]
    if missing:
        raise UnsupportedModelError(
            f"what the neurons of layer {missing[0]} read of the residual stream could not be found, so what "
            "activates them is not known; value neurons and interventions work without it"
        )
    return tuple(block.readers for block in anatomy.blocks if block.readers is not None)


@dataclass(frozen=True, eq=False)
class ValueNeurons:
    """The value neurons of one kind whose activation is to be explained.

    Attributes:
        kind: of the neurons.
        layer: `[n]`.
        index: FFN neuron, or head * d_head + dim, `[n]`.
        position: where they read the stream, `[n]`.
        score: their log-probability increase, `[n]`, nats.
    """

    kind: Kind
    layer: Tensor
    index: Tensor
    position: Tensor
    score: Tensor


@dataclass(frozen=True, eq=False)
class Subkeys:
    """Value neurons as they read the stream; gated FFN neurons do so by two paths.

    Attributes:
        neuron: which of the value neurons, `[n]`.
        path: `"value"`, `"up"`, `"gate"` or `"down"`, by row.
        keys: subkeys with the norm's weight and frozen scale, `[n, d_model]`: the inner product with a
            component is what it adds to the pre-activation.
        constants: what is added to the pre-activation whatever the stream holds, `[n]`.
        layer: of the neuron, `[n]`.
        position: index among the positions of the components, `[n]`.
        after_attention: whether they read what the attention of their own layer wrote.
        weight: score of the neuron in nats, shared equally among its paths, `[n]`.
        n_paths: of each value neuron, `[n_value_neurons]`.
        smallest_remainder: a neuron is skipped if its components cancel to less than this share of
            their magnitudes: its shares would be rounding errors blown up.
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
        """Whether what each layer's attention and FFN wrote is there to be read, `[n, n_layers, 2]`."""
        layers = torch.arange(n_layers, device=self.layer.device)
        ffn = layers < self.layer[:, None]
        attention = layers <= self.layer[:, None] if self.after_attention else ffn
        return torch.stack([attention, ffn], dim=-1)

    def neurons_with(self, marked: Tensor) -> Tensor:
        """Which value neurons have a marked path, `[n] -> [n_value_neurons]`."""
        found = torch.zeros(len(self.n_paths), dtype=torch.bool, device=marked.device)
        found[self.neuron[marked]] = True
        return found


def subkeys(anatomy: Anatomy, components: Components, neurons: ValueNeurons, key: Key | None) -> Subkeys:
    """How value neurons read the stream.

    Args:
        anatomy: of the model.
        components: at the neurons' positions.
        neurons: the value neurons.
        key: which path of gated FFN neurons; None takes half of the gate's and half of the up path's
            shares. `"down"` takes the column of the down projection and skips no neuron, as the authors'
            Llama notebook does, for reproduction only: it is not what the neuron reads.

    Raises:
        UnsupportedModelError: what the neurons read could not be found.
    """
    position = components.index(neurons.position)
    pieces = [
        _Piece(rows, path, *_read(anatomy, components, neurons, rows, position[rows], path))
        for rows in _rows_by_layer(neurons.layer)
        for path in _paths(anatomy, neurons, int(neurons.layer[rows[0]]), key)
    ]
    rows = torch.cat([piece.rows for piece in pieces])
    n_paths = torch.bincount(rows, minlength=len(neurons.layer))
    return Subkeys(
        neuron=rows,
        path=tuple(piece.path for piece in pieces for _ in piece.rows),
        keys=torch.cat([piece.keys for piece in pieces]),
        constants=torch.cat([piece.constants for piece in pieces]),
        layer=neurons.layer[rows],
        position=position[rows],
        after_attention=neurons.kind == "ffn" and not anatomy.parallel,
        weight=neurons.score[rows] / n_paths[rows],
        n_paths=n_paths,
        smallest_remainder=0.0 if key == "down" and neurons.kind == "ffn" else SMALLEST_REMAINDER,
    )


@dataclass(frozen=True, eq=False)
class _Piece:
    """The subkeys of some value neurons of one layer by one path."""

    rows: Tensor
    path: Path
    keys: Tensor
    constants: Tensor


def _rows_by_layer(layer: Tensor) -> list[Tensor]:
    return [torch.nonzero(layer == here)[:, 0] for here in layer.unique().tolist()]


def _paths(anatomy: Anatomy, neurons: ValueNeurons, layer: int, key: Key | None) -> Sequence[Path]:
    if neurons.kind == "attention":
        return ("value",)
    available = readers_of(anatomy)[layer].ffn
    return tuple(available) if key is None or (key == "gate" and "gate" not in available) else (key,)


def _read(
    anatomy: Anatomy,
    components: Components,
    neurons: ValueNeurons,
    rows: Tensor,
    position: Tensor,
    path: Path,
) -> tuple[Tensor, Tensor]:
    """Scaled subkeys `[n, d_model]` and constants `[n]` of value neurons of one layer."""
    layer, index = int(neurons.layer[rows[0]]), neurons.index[rows]
    readers = readers_of(anatomy)[layer]
    if path == "down":
        columns = anatomy.blocks[layer].ffn_output.columns(index)
        norm = readers.up.norm
        keys = columns if norm is None else norm.centre(columns * norm.weight)
        reader, constants = readers.up, torch.zeros(len(index), device=keys.device)
    else:
        reader = readers.value if path == "value" else readers.ffn[path]
        index = value_index(anatomy, index) if path == "value" else index
        keys, constants = reader.keys(index), reader.constants(index)
    states = state_read(anatomy, components, neurons.kind, layer)[position]
    return keys * reader.scale(states)[:, None], constants


def value_index(anatomy: Anatomy, index: Tensor) -> Tensor:
    """Which value (of the key/value heads) attention neurons `head * d_head + dim` carry, `[n] -> [n]`."""
    head = index.div(anatomy.d_head, rounding_mode="floor")
    kv_head = head.div(anatomy.n_heads // anatomy.n_kv_heads, rounding_mode="floor")
    return kv_head * anatomy.d_head + index % anatomy.d_head


def state_read(anatomy: Anatomy, components: Components, kind: Kind, layer: int) -> Tensor:
    """The states that neurons of a kind read in a layer, `[n_positions, d_model]`."""
    states = components.resid_pre[layer]
    return states + components.attention_out[layer] if kind == "ffn" and not anatomy.parallel else states
