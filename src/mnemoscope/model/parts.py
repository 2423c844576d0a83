"""Parts of a model as inputs of its projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemoscope.errors import OptionError
from mnemoscope.model.structure import ModelStructure, Projection
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron, Layer, NeuronKind, Part


@dataclass(frozen=True, eq=False)
class Site:
    """Inputs of one projection that belong to parts, or its whole output.

    Attributes:
        layer: of the projection.
        kind: which of its two projections.
        inputs: indices of inputs, ascending and unique; None for all that is added.
    """

    layer: int
    kind: NeuronKind
    inputs: Tensor | None

    def projection(self, structure: ModelStructure) -> Projection:
        """Return the projection."""
        return structure.blocks[self.layer].output(self.kind)

    def module(self, structure: ModelStructure) -> nn.Module:
        """Return the module whose inputs or output change."""
        projection = self.projection(structure)
        return projection.written if self.inputs is None else projection.module


def neuron_part(structure: ModelStructure, kind: str, index: int) -> Part:
    """Return the neuron of a flat index in `[n_layers, d_ff]` (`"ffn"`) or `[n_layers, n_heads, d_head]`."""
    if kind == "ffn":
        return FFNNeuron(*divmod(index, structure.d_ff))
    layer, place = divmod(index, structure.n_heads * structure.d_head)
    return AttentionNeuron(layer, *divmod(place, structure.d_head))


def sites(parts: Sequence[Part], structure: ModelStructure) -> tuple[Site, ...]:
    """Locate parts in a model.

    Raises:
        OptionError: a part that the model does not have.
    """
    inputs: dict[tuple[int, str], set[int]] = {}
    whole: set[tuple[int, str]] = set()
    for part in parts:
        check_part(part, structure)
        if isinstance(part, Layer):
            whole.add((part.layer, part.kind))
        elif isinstance(part, FFNNeuron):
            inputs.setdefault((part.layer, "ffn"), set()).add(part.neuron)
        else:
            first = part.head * structure.d_head
            dims = [part.dim] if isinstance(part, AttentionNeuron) else range(structure.d_head)
            inputs.setdefault((part.layer, "attention"), set()).update(first + dim for dim in dims)
    found = []
    for layer, kind in sorted(whole | inputs.keys()):
        index = None if (layer, kind) in whole else torch.tensor(sorted(inputs[layer, kind]))
        found.append(Site(layer, "ffn" if kind == "ffn" else "attention", index))
    return tuple(found)


def check_part(part: Part, structure: ModelStructure) -> None:
    """Refuse a part that the model does not have.

    Raises:
        OptionError: it has none of that number.
    """
    _within(part, "layer", part.layer, structure.n_layers)
    if isinstance(part, FFNNeuron):
        _within(part, "neuron", part.neuron, structure.n_neurons(part.layer))
    elif isinstance(part, Layer):
        if part.kind not in ("attention", "ffn"):
            raise OptionError(f"{part} has no such kind; give 'attention' or 'ffn'")
    else:
        _within(part, "head", part.head, structure.n_heads)
        if isinstance(part, AttentionNeuron):
            _within(part, "dim", part.dim, structure.d_head)


def _within(part: Part, name: str, value: int, size: int) -> None:
    if not 0 <= value < size:
        raise OptionError(f"the model has no {part}: {name} goes from 0 to {size - 1}; name another")
