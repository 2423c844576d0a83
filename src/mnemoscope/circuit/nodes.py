"""Nodes of circuits: neurons and heads of chosen kinds, numbered in one flat index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.errors import OptionError
from mnemoscope.model.parts import Site
from mnemoscope.model.structure import ModelStructure
from mnemoscope.results.circuit import NODE_COLUMNS, CircuitKind

# A projection whose inputs belong to nodes.
SiteKey = tuple[int, Literal["attention", "ffn"]]


@dataclass(frozen=True)
class Group:
    """Nodes of one kind in one layer.

    Attributes:
        kind: of the nodes.
        layer: of the nodes.
        start: number of the first one.
        n_units: number of neurons or heads.
        width: number of the projection's inputs that belong to each.
    """

    kind: CircuitKind
    layer: int
    start: int
    n_units: int
    width: int

    @property
    def site(self) -> SiteKey:
        """The projection that the nodes are inputs of."""
        return self.layer, "ffn" if self.kind == "ffn" else "attention"


@dataclass(frozen=True, eq=False)
class NodeSpace:
    """All nodes of some kinds, numbered by kind, layer, position and neuron or head.

    Attributes:
        structure: the model's structure.
        kinds: the kinds, in order.
        n_positions: number of positions, each with nodes of its own; None for nodes that are the same at
            every position.
    """

    structure: ModelStructure
    kinds: tuple[CircuitKind, ...]
    n_positions: int | None

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The nodes of each kind and layer, ascending."""
        found, start, structure = [], 0, self.structure
        for kind in self.kinds:
            for layer in range(structure.n_layers):
                n_units = {
                    "ffn": structure.n_neurons(layer),
                    "attention": structure.n_heads * structure.d_head,
                    "head": structure.n_heads,
                }[kind]
                found.append(Group(kind, layer, start, n_units, structure.d_head if kind == "head" else 1))
                start += n_units * (self.n_positions or 1)
        return tuple(found)

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        last = self.groups[-1]
        return last.start + last.n_units * (self.n_positions or 1)

    def site(self, key: SiteKey) -> Site:
        """Return all inputs of a projection."""
        layer, kind = key
        return Site(layer, kind, torch.arange(self.structure.blocks[layer].output(kind).n_inputs))

    def masks(self, nodes: Tensor) -> dict[SiteKey, Tensor]:
        """Spread a mask of nodes `[n_nodes]` over the inputs of projections.

        Returns:
            `[n_inputs]` by projection, or `[n_positions, n_inputs]` where nodes have positions.
        """
        found = {}
        for group in self.groups:
            mask = nodes[group.start : group.start + group.n_units * (self.n_positions or 1)]
            mask = mask.repeat_interleave(group.width)
            found[group.site] = mask if self.n_positions is None else mask.view(self.n_positions, -1)
        return found

    def gather(self, values: Mapping[SiteKey, Tensor]) -> Tensor:
        """Sum values of inputs by node, `[n_prompts, n_tokens, n_inputs]` to `[n_prompts, n_nodes]`.

        Positions are summed unless nodes have positions; the inputs of a head are summed.
        """
        found = []
        for group in self.groups:
            of_inputs = values[group.site]
            of_units = of_inputs.unflatten(-1, (group.n_units, group.width)).sum(-1)
            found.append(of_units.sum(1) if self.n_positions is None else of_units.flatten(1))
        return torch.cat(found, dim=1)

    def locate(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the index of the group, the position, and the neuron or head of nodes, `[n]` each."""
        starts = torch.tensor([group.start for group in self.groups])
        group = torch.searchsorted(starts, nodes, right=True) - 1
        place, n_units = nodes - starts[group], torch.tensor([group.n_units for group in self.groups])[group]
        return group, place // n_units, place % n_units

    def table(self, nodes: Tensor, scores: Tensor) -> pd.DataFrame:
        """Name nodes `[n]` with their scores `[n]`, in the columns of `NODE_COLUMNS`; -1 where not given."""
        rows = []
        located = zip(*(each.tolist() for each in (*self.locate(nodes), scores)), strict=True)
        for number, position, unit, score in located:
            group = self.groups[number]
            neuron, head, dim = {
                "ffn": (unit, -1, -1),
                "attention": (-1, *divmod(unit, self.structure.d_head)),
                "head": (-1, unit, -1),
            }[group.kind]
            rows.append(
                (group.kind, group.layer, neuron, head, dim, position if self.n_positions else -1, score)
            )
        return pd.DataFrame(rows, columns=list(NODE_COLUMNS)).astype(NODE_COLUMNS)

    def mask_of(self, table: pd.DataFrame) -> Tensor:
        """Return the mask `[n_nodes]` of the nodes that a table names.

        Raises:
            OptionError: the model has no such node.
        """
        groups = {(group.kind, group.layer): group for group in self.groups}
        mask = torch.zeros(self.n_nodes, dtype=torch.bool)
        rows: list[Any] = list(table.itertuples(index=False))
        for row in rows:
            group = groups.get((row.kind, row.layer))
            unit = {
                "ffn": row.neuron,
                "attention": row.head * self.structure.d_head + row.dim,
                "head": row.head,
            }[row.kind]
            position = row.position if self.n_positions is not None else 0
            if group is None or not 0 <= unit < group.n_units or not 0 <= position < (self.n_positions or 1):
                raise OptionError(
                    f"the model has no {row.kind} node {unit} in layer {row.layer}; take one of this model"
                )
            mask[group.start + position * group.n_units + unit] = True
        return mask


def check_kinds(kinds: Sequence[str]) -> tuple[CircuitKind, ...]:
    """Check the kinds of nodes and put them in order.

    Raises:
        OptionError: there is none, an unknown one, or heads as well as the attention neurons inside of them.
    """
    known = get_args(CircuitKind)
    given = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in given:
        if kind not in known:
            raise OptionError(f"{kind!r} is not a kind of nodes; give some of {', '.join(known)}")
    if not given:
        raise OptionError(f"there are no kinds of nodes; give some of {', '.join(known)}")
    if {"attention", "head"} <= set(given):
        raise OptionError("attention neurons are parts of heads; give one of the kinds attention and head")
    return tuple(kind for kind in known if kind in given)
