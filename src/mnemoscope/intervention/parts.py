"""Which parts of a model to intervene on, named one by one or taken from a table of a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from mnemoscope.errors import OptionError
from mnemoscope.model.anatomy import Anatomy, Projection
from mnemoscope.model.experts import Mixture


class FFNNeuron(NamedTuple):
    """One FFN neuron: one input of the down projection."""

    layer: int
    neuron: int


class AttentionNeuron(NamedTuple):
    """One attention neuron: one input of the attention's output projection."""

    layer: int
    head: int
    dim: int


class Head(NamedTuple):
    """One head: all its attention neurons."""

    layer: int
    head: int


class Layer(NamedTuple):
    """All that a layer's attention or FFN adds to the stream: behind a post-norm, biases included."""

    layer: int
    kind: Literal["attention", "ffn"]


Part = FFNNeuron | AttentionNeuron | Head | Layer
Parts = Iterable[Part] | pd.DataFrame


@dataclass(frozen=True, eq=False)
class Site:
    """The inputs of one projection that belong to a set of parts, or all that it adds to the stream.

    Attributes:
        layer: of the projection.
        kind: which of its two projections.
        inputs: indices of inputs, ascending and unique; None for all that is added.
    """

    layer: int
    kind: Literal["attention", "ffn"]
    inputs: Tensor | None

    def projection(self, anatomy: Anatomy) -> Projection:
        """The projection in question."""
        block = anatomy.blocks[self.layer]
        return block.attention_output if self.kind == "attention" else block.ffn_output

    def module(self, anatomy: Anatomy) -> nn.Module:
        """The module whose inputs, or whose output, it is."""
        projection = self.projection(anatomy)
        return projection.written if self.inputs is None else projection.module


def neuron_part(anatomy: Anatomy, kind: str, index: int) -> Part:
    """The neuron of a flat index `[n_layers, d_ff]` (kind `"ffn"`) or `[n_layers, n_heads, d_head]`."""
    if kind == "ffn":
        return FFNNeuron(*divmod(index, anatomy.d_ff))
    layer, place = divmod(index, anatomy.n_heads * anatomy.d_head)
    return AttentionNeuron(layer, *divmod(place, anatomy.d_head))


def listed(parts: Parts) -> tuple[Part, ...]:
    """Parts as a tuple; a table's rows become parts by the columns it has.

    `neuron`: FFN neurons; `dim`: attention neurons, whatever their position; `head`: heads;
    `kind`: layers.

    Raises:
        OptionError: no parts, or a table or item that names none.
    """
    found = _from_table(parts) if isinstance(parts, pd.DataFrame) else tuple(parts)
    if not found:
        raise OptionError("there are no parts to intervene on; name at least one neuron, head or layer")
    for part in found:
        if not isinstance(part, (FFNNeuron, AttentionNeuron, Head, Layer)):
            raise OptionError(
                f"{part!r} is no part; give FFNNeuron(layer, neuron), AttentionNeuron(layer, head, dim), "
                "Head(layer, head) or Layer(layer, kind), or a table of a result"
            )
    return tuple(dict.fromkeys(found))


def sites(parts: Sequence[Part], anatomy: Anatomy) -> tuple[Site, ...]:
    """Where in a model the parts are.

    Raises:
        OptionError: a part that the model does not have.
    """
    inputs: dict[tuple[int, str], set[int]] = {}
    whole: set[tuple[int, str]] = set()
    for part in parts:
        _check(part, anatomy)
        if isinstance(part, Layer):
            whole.add((part.layer, part.kind))
        elif isinstance(part, FFNNeuron):
            inputs.setdefault((part.layer, "ffn"), set()).add(part.neuron)
        else:
            first = part.head * anatomy.d_head
            dims = [part.dim] if isinstance(part, AttentionNeuron) else range(anatomy.d_head)
            inputs.setdefault((part.layer, "attention"), set()).update(first + dim for dim in dims)
    found = []
    for layer, kind in sorted(whole | inputs.keys()):
        index = None if (layer, kind) in whole else torch.tensor(sorted(inputs[layer, kind]))
        found.append(Site(layer, "ffn" if kind == "ffn" else "attention", index))
    return tuple(found)


def matched_random(parts: Sequence[Part], anatomy: Anatomy, seed: int) -> tuple[Part, ...]:
    """Other parts of the same kinds, as many in each layer and expert, drawn at random.

    Experts that a token is not routed to are silent, and would be no match for those that it is. Whole layers
    have no match in their own layer; other layers are drawn for them.

    Raises:
        OptionError: a part that the model does not have.
    """
    for part in parts:
        _check(part, anatomy)
    generator = torch.Generator().manual_seed(seed)
    groups: dict[tuple[type, int, range], list[int]] = {}
    for part in parts:
        layer = 0 if isinstance(part, Layer) else part.layer
        index = _index(part, anatomy)
        groups.setdefault((type(part), layer, _alike(part, index, anatomy)), []).append(index)
    drawn: list[Part] = []
    for (kind, layer, alike), group in groups.items():
        free = torch.ones(len(alike), dtype=torch.bool)
        free[torch.tensor(group) - alike.start] = False
        choices = torch.nonzero(free)[:, 0] + alike.start
        order = torch.randperm(len(choices), generator=generator)[: len(group)]
        drawn += [_part(kind, layer, index, anatomy) for index in choices[order].tolist()]
    return tuple(drawn)


def _index(part: Part, anatomy: Anatomy) -> int:
    """Its number among the parts of its kind in its layer; of layers, among all."""
    if isinstance(part, FFNNeuron):
        return part.neuron
    if isinstance(part, AttentionNeuron):
        return part.head * anatomy.d_head + part.dim
    if isinstance(part, Head):
        return part.head
    return 2 * part.layer + (part.kind == "ffn")


def _part(kind: type, layer: int, index: int, anatomy: Anatomy) -> Part:
    """The part of a kind with that number."""
    if kind is FFNNeuron:
        return FFNNeuron(layer, index)
    if kind is AttentionNeuron:
        return AttentionNeuron(layer, *divmod(index, anatomy.d_head))
    if kind is Head:
        return Head(layer, index)
    return Layer(index // 2, "ffn" if index % 2 else "attention")


def _alike(part: Part, index: int, anatomy: Anatomy) -> range:
    """The numbers of the parts that one is drawn from for it: of its layer, and of its expert."""
    if isinstance(part, Layer):
        return range(2 * anatomy.n_layers)
    if isinstance(part, Head):
        return range(anatomy.n_heads)
    if isinstance(part, AttentionNeuron):
        return range(anatomy.n_heads * anatomy.d_head)
    n_neurons, module = anatomy.n_neurons(part.layer), anatomy.blocks[part.layer].ffn_output.module
    if not isinstance(module, Mixture):
        return range(n_neurons)
    expert = module.expert(index)
    if expert is None:
        return range(module.n_experts * module.d_expert, n_neurons)
    return range(expert * module.d_expert, (expert + 1) * module.d_expert)


def _from_table(table: pd.DataFrame) -> tuple[Part, ...]:
    kinds: dict[str, tuple[type[Part], tuple[str, ...]]] = {
        "neuron": (FFNNeuron, ("layer", "neuron")),
        "dim": (AttentionNeuron, ("layer", "head", "dim")),
        "head": (Head, ("layer", "head")),
        "kind": (Layer, ("layer", "kind")),
    }
    for column, (kind, names) in kinds.items():
        if column in table and set(names) <= set(table.columns):
            rows = zip(*(table[name].tolist() for name in names), strict=True)
            return tuple(kind(*row) for row in rows)
    raise OptionError(
        f"a table with the columns {', '.join(map(str, table.columns))} names no parts; "
        "give ffn_neurons, attention_neurons, heads or layers of a result"
    )


def _check(part: Part, anatomy: Anatomy) -> None:
    _within(part, "layer", part.layer, anatomy.n_layers)
    if isinstance(part, FFNNeuron):
        _within(part, "neuron", part.neuron, anatomy.n_neurons(part.layer))
    elif isinstance(part, Layer):
        if part.kind not in ("attention", "ffn"):
            raise OptionError(f"{part} has no such kind; give 'attention' or 'ffn'")
    else:
        _within(part, "head", part.head, anatomy.n_heads)
        if isinstance(part, AttentionNeuron):
            _within(part, "dim", part.dim, anatomy.d_head)


def _within(part: Part, name: str, value: object, size: int) -> None:
    if not isinstance(value, int) or not 0 <= value < size:
        raise OptionError(f"the model has no {part}: {name} goes from 0 to {size - 1}; name another")
