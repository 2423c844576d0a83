"""Which parts of a model to intervene on, named one by one or taken from a table of a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from mnemoscope.errors import OptionError
from mnemoscope.model.anatomy import Anatomy, Projection
from mnemoscope.whole_numbers import whole_number


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of a layer; parts are equal if their types and all their fields are.

    Attributes:
        layer: counted from 0; fields are whole numbers of any library and become `int`.
    """

    layer: int

    def __post_init__(self) -> None:
        """Make whole numbers of the fields.

        Raises:
            OptionError: one of them is no whole number.
        """
        for name, value in vars(self).items():
            if name == "kind":
                continue
            number = whole_number(value)
            if number is None:
                raise OptionError(
                    f"the {name} of {type(self).__name__} is {value!r}; give a whole number, such as 3"
                )
            object.__setattr__(self, name, number)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    @property
    def name(self) -> str:
        """Its fields as the command line writes them, such as `23.4`; the type is not in it."""
        return ".".join(map(str, vars(self).values()))

    def to_json(self) -> dict[str, Any]:
        """Its fields by name."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class FFNNeuron(_Part):
    """One FFN neuron: one input of the down projection."""

    neuron: int


@dataclass(frozen=True, eq=False)
class AttentionNeuron(_Part):
    """One attention neuron: one input of the attention's output projection."""

    head: int
    dim: int


@dataclass(frozen=True, eq=False)
class Head(_Part):
    """One head: all its attention neurons."""

    head: int


@dataclass(frozen=True, eq=False)
class Layer(_Part):
    """All that a layer's attention or FFN adds to the stream: behind a post-norm, biases included."""

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
        OptionError: no parts, no list, or a table or item that names none.
    """
    if isinstance(parts, (str, _Part)) or not isinstance(parts, Iterable):
        raise OptionError(f"the parts are {parts!r}, which is no list; give a list, such as [Head(23, 4)]")
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
        check_part(part, anatomy)
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


def check_part(part: Part, anatomy: Anatomy) -> None:
    """Refuse a part that the model does not have.

    Raises:
        OptionError: it has none of that number.
    """
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


def _within(part: Part, name: str, value: int, size: int) -> None:
    if not 0 <= value < size:
        raise OptionError(f"the model has no {part}: {name} goes from 0 to {size - 1}; name another")
