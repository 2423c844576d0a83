"""Grids of parts: every part adds `coefficient * column` to the residual stream.

A coefficient is a value that enters the projection, times the frozen scale of the norm that the projection's
output passes before it is added (1 without one; the norm's weight is in the columns).

One shape serves them all (docs/method.md#parts), so that bounding, scoring and searching are written once;
`PromptCache` makes them:

| grid | columns of a layer | values of a column |
|---|---|---|
| FFN neurons | rows of `W_down` | its coefficient m |
| attention neurons | rows of `W_o` | `alpha * value` at each position, then their sum |
| heads | each head's output | 1 |
| heads at positions | each head's output from each position | 1 |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mnemoscope.model.activations import MOST_KEPT
from mnemoscope.model.structure import Projection


@dataclass(frozen=True, eq=False)
class Grid:
    """Parts arranged as `[n_layers, n_columns, n_coefficients]`; a flat index runs in that order.

    Attributes:
        n_layers, n_columns, n_coefficients: the shape.
        columns: `columns(layer, index)` returns float32 `[n, d_model]`, all columns for `index=None`.
        values: `values(layer)` returns what enters the projection, float32 `[n_columns, n_coefficients]`.
        base: base state of each layer's parts, `[n_layers]`.
        scale: factor by which each layer's values become coefficients, float32 `[n_layers]`.
        weights: the projections whose rows the columns are, if they do not depend on the prompt.
        active: layer and column of those that take part, `[n, 2]` ascending; None for all. The others add
            nothing: neurons of experts that the token was not routed to, or that a ReLU silenced.
    """

    n_layers: int
    n_columns: int
    n_coefficients: int
    columns: Callable[[int, Tensor | None], Tensor]
    values: Callable[[int], Tensor]
    base: Tensor
    scale: Tensor
    weights: tuple[Projection, ...] | None = None
    active: Tensor | None = None

    @cached_property
    def present(self) -> Tensor:
        """Columns that take part, as `layer * n_columns + column`, ascending, `[n]`."""
        if self.active is None:
            return torch.arange(self.n_layers * self.n_columns, device=self.base.device)
        return self.active[:, 0] * self.n_columns + self.active[:, 1]

    @cached_property
    def existing(self) -> Tensor:
        """Columns that exist (layers may have fewer FFN neurons than others), in the same way, `[n]`."""
        number = torch.full((self.n_layers,), self.n_columns, device=self.base.device)
        if self.weights is not None:
            number = torch.tensor([projection.n_inputs for projection in self.weights], device=number.device)
        place = torch.arange(self.n_columns, device=number.device)
        return torch.nonzero((place < number[:, None]).flatten())[:, 0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n_layers, n_columns, n_coefficients)`."""
        return self.n_layers, self.n_columns, self.n_coefficients

    @property
    def size(self) -> int:
        """Number of parts."""
        return self.n_layers * self.n_columns * self.n_coefficients

    def coefficients(self, layer: int) -> Tensor:
        """Return the coefficients of a layer, `[n_columns, n_coefficients]`."""
        return self.values(layer) * self.scale[layer]

    def locate(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split flat indices into layer, column and coefficient."""
        return *self.split(index // self.n_coefficients), index % self.n_coefficients

    def split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Split `layer * n_columns + column` into layer and column."""
        return columns // self.n_columns, columns % self.n_columns

    def parts(self, columns: Tensor) -> Tensor:
        """Return the flat indices of all parts of columns, `[n] -> [n, n_coefficients]`."""
        coefficient = torch.arange(self.n_coefficients, device=columns.device)
        return columns[:, None] * self.n_coefficients + coefficient

    def gather_columns(self, layer: Tensor, column: Tensor) -> Tensor:
        """Gather columns of parts sorted by layer, `[n] -> [n, d_model]`."""
        return torch.cat([self.columns(here, column[some]) for here, some in by_layer(layer)])

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return layer, column and coefficient of parts by ascending flat indices, `[n]` each."""
        layer, column, number = self.locate(index)
        return layer, column, self.gather_values(layer, column, number) * self.scale[layer]

    def gather_values(self, layer: Tensor, *index: Tensor) -> Tensor:
        """Gather what enters the projection, of all parts of columns or of some, sorted by layer.

        Args:
            layer: of the columns, `[n]`.
            index: column, and number of the coefficient where only some are gathered, `[n]` each.
        """
        if self._every_value is not None:
            return self._every_value[(layer, *index)]
        found = [self.values(here)[tuple(each[some] for each in index)] for here, some in by_layer(layer)]
        return torch.cat(found)

    def values_of(self, index: Tensor) -> Tensor:
        """Return what enters the projection for parts in any order, `[n] -> [n]`."""
        order = index.argsort()
        found = torch.empty(len(index), device=index.device)
        found[order] = self.gather_values(*self.locate(index[order]))
        return found

    @cached_property
    def _every_value(self) -> Tensor | None:
        """Values of all layers; None where they are many."""
        if self.size > MOST_KEPT:
            return None
        return torch.stack([self.values(layer) for layer in range(self.n_layers)])


def by_layer(layer: Tensor) -> Iterator[tuple[int, slice]]:
    """Yield each layer in a sorted `[n]` tensor with its slice."""
    present, counts = layer.unique_consecutive(return_counts=True)
    start = 0
    for here, count in zip(present.tolist(), counts.tolist(), strict=True):
        yield here, slice(start, start + count)
        start += count
