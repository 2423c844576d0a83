"""Parts of a model, named one by one or taken from a table of a result."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import pandas as pd

from mnemoscope._arguments import whole_number
from mnemoscope.errors import OptionError

NeuronKind = Literal["ffn", "attention"]


@dataclass(frozen=True)
class _Part:
    """Part of a layer.

    Attributes:
        layer: counted from 0; fields are whole numbers of any library and become `int`.
    """

    layer: int

    def __post_init__(self) -> None:
        """Convert the fields to whole numbers.

        Raises:
            OptionError: a field is no whole number.
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

    @property
    def name(self) -> str:
        """The fields as the command line writes them, such as `23.4`, without the type."""
        return ".".join(map(str, vars(self).values()))

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class FFNNeuron(_Part):
    """FFN neuron: one input of the down projection."""

    neuron: int


@dataclass(frozen=True)
class AttentionNeuron(_Part):
    """Attention neuron: one input of the attention's output projection."""

    head: int
    dim: int


@dataclass(frozen=True)
class Head(_Part):
    """Head: all its attention neurons."""

    head: int


@dataclass(frozen=True)
class Layer(_Part):
    """Output of a layer's attention or FFN as added to the stream: behind a post-norm, biases included."""

    kind: Literal["attention", "ffn"]


Part = FFNNeuron | AttentionNeuron | Head | Layer
Parts = Iterable[Part] | pd.DataFrame


def listed(parts: Parts) -> tuple[Part, ...]:
    """Return parts as a tuple; a table's rows become parts by the columns it has.

    `neuron`: FFN neurons; `dim`: attention neurons, whatever their position; `head`: heads; `kind`: layers.

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


def neuron_named(name: str) -> FFNNeuron | AttentionNeuron:
    """Return the neuron of a name: `24.1005` (layer, neuron), or `23.4.51` or `a23.4.51` (layer, head, dim).

    Raises:
        OptionError: the name has another form.
    """
    found = re.fullmatch(r"(a?)([0-9]{1,9})\.([0-9]{1,9})(?:\.([0-9]{1,9}))?", name)
    if found is None or (found[1] and found[4] is None):
        raise OptionError(
            f"{name!r} names no neuron; write layer.neuron, such as 24.1005, or layer.head.dim, such as "
            "23.4.51"
        )
    if found[4] is None:
        return FFNNeuron(int(found[2]), int(found[3]))
    return AttentionNeuron(int(found[2]), int(found[3]), int(found[4]))


def row_name(row: Mapping[str, Any]) -> str:
    """Return the name of a row's part, such as `24.1005` or `23.4.51`, from those numbers that the row has.

    A missing number, or -1, names nothing.
    """
    numbers: list[Any] = [row.get(name) for name in ("layer", "neuron", "head", "dim")]
    return ".".join(str(number) for number in numbers if not pd.isna(number) and number >= 0)


def _part(layer: Any, neuron: Any, head: Any, dim: Any) -> Part:
    """Return the part of a row in which numbers of other kinds are missing."""
    if neuron is not None:
        return FFNNeuron(layer, neuron)
    return Head(layer, head) if dim is None else AttentionNeuron(layer, head, dim)


def _from_table(table: pd.DataFrame) -> tuple[Part, ...]:
    if {"neuron", "head", "dim"} <= set(table.columns):  # parts of several kinds
        rows = table[["layer", "neuron", "head", "dim"]].itertuples(index=False)
        return tuple(
            _part(*(None if pd.isna(number) or number < 0 else number for number in row)) for row in rows
        )
    for kind in (FFNNeuron, AttentionNeuron, Head, Layer):
        names = [field.name for field in fields(kind)]
        if set(names) <= set(table.columns):
            return tuple(kind(*row) for row in zip(*(table[name].tolist() for name in names), strict=True))
    raise OptionError(
        f"a table with the columns {', '.join(map(str, table.columns))} names no parts; "
        "give ffn_neurons, attention_neurons, heads or layers of a result"
    )
