"""Grids of parts: every part adds `coefficient * column` to the residual stream.

A coefficient is a value that enters the projection, times the frozen scale of the norm that the projection's
output passes before it is added (1 without one; the norm's weight is in the columns).

One shape serves them all (docs/method.md#parts), so that bounding, scoring and searching are written once;
`PromptCache` makes them. Columns that are projected to the vocabulary are kept from prompt to prompt:

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
from mnemoscope.model.readout import FrozenReadout, Readout
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


# Rows that one call may ask for: as many as are scored at once.
MAX_ROWS = 144
# Some libraries compute products of fewer rows in another order, with another rounding; with at least this
# many, equal neurons get equal values whatever block they are in.
MIN_ROWS = 16
# How many promoted and demoted tokens are listed with an FFN neuron.
N_READ = 10
# Values whose extreme is looked at before they are sorted.
CHUNK = 128


class ProjectedColumns:
    """Before-softmax values at scale 1 of columns of weights, kept from prompt to prompt.

    Attributes:
        readout: of the model.
        n_rows: number of columns there is room for.
        values: `[n_rows, n_vocabulary]` float32, in the rows that `places` returns.
    """

    def __init__(self, readout: Readout, budget: int) -> None:
        """Allocate as many rows as a budget of bytes allows, two blocks at least."""
        self.readout = readout
        n_vocabulary = len(readout.unembedding)
        self.n_rows = max(2 * MAX_ROWS, budget // (4 * n_vocabulary))
        self.values = torch.empty(self.n_rows, n_vocabulary, device=readout.unembedding.device)
        self._unscaled = FrozenReadout(
            readout.norm, readout.unembedding, torch.zeros(()), torch.ones((), device=self.values.device)
        )
        self._place: dict[tuple[int, int], int] = {}
        self._n_filled = 0

    def places(self, grid: Grid, columns: Tensor) -> list[int]:
        """Return the row of each column's values, projecting those not yet there.

        Args:
            grid: a grid of weights.
            columns: `layer * n_columns + column`, ascending, at most `n_rows`.
        """
        assert grid.weights is not None
        places = (divmod(number, grid.n_columns) for number in columns.tolist())
        # A column is identified by the module that holds it and its number in it.
        keys = [(id(grid.weights[layer].module), column) for layer, column in places]
        # In the order of last use.
        self._place.update((key, self._place.pop(key)) for key in keys if key in self._place)
        missing = [number for number, key in enumerate(keys) if key not in self._place]
        for start in range(0, len(missing), MAX_ROWS):
            some = missing[start : start + MAX_ROWS]
            chosen = columns[torch.tensor(some, device=columns.device)]
            room = self.values[self._n_filled :]
            rows = [self._free_row() for _ in some]
            if len(room) >= max(len(some), MIN_ROWS):
                project_columns(self._unscaled, grid, chosen, room)
            else:
                self.values[rows] = project_columns(self._unscaled, grid, chosen)
            self._place.update((keys[number], row) for number, row in zip(some, rows, strict=True))
        return [self._place[key] for key in keys]

    def _free_row(self) -> int:
        """Return an unused row, or the row of the least recently used column."""
        if self._n_filled == len(self.values):
            return self._place.pop(next(iter(self._place)))
        self._n_filled += 1
        return self._n_filled - 1


def project_columns(readout: FrozenReadout, grid: Grid, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute the values of columns (layer * n_columns + column, ascending), `[n, n_vocabulary]`."""
    folded = readout.fold(grid.gather_columns(*grid.split(columns)))
    n_rows = max(len(folded), MIN_ROWS)
    padded = torch.nn.functional.pad(folded, (0, 0, 0, n_rows - len(folded)))
    return readout.project(padded, out=None if out is None else out[:n_rows])[: len(folded)]


# Shown the columns of a block (layer * n_columns + column, ascending) and their before-softmax
# values `[n, n_vocabulary]` (those of the readout's tokens), to be read and not kept.
Observer = Callable[[Tensor, Tensor], None]


class TokenReader:
    """Observer that keeps the promoted and demoted tokens of columns of weights.

    They depend on the weights alone, as the final norm's scale changes no order.
    """

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, columns: Tensor, values: Tensor) -> None:
        """Keep columns (layer * n_columns + column) with their values `[n, n_vocabulary]`."""
        self._seen.append((columns, top_tokens(values, N_READ), top_tokens(values, N_READ, sign=-1)))

    def read(self, readout: FrozenReadout, grid: Grid, columns: Tensor, budget: int) -> tuple[Tensor, Tensor]:
        """Return the highest and lowest tokens of columns, `[n, N_READ]` each; project those not seen yet.

        Args:
            readout: the frozen readout of the whole vocabulary.
            grid: the parts.
            columns: the columns.
            budget: bytes that a block of values may take.
        """
        if not len(columns):
            return columns.new_empty(0, N_READ), columns.new_empty(0, N_READ)
        unseen = columns.unique()
        if self._seen:
            unseen = unseen[~torch.isin(unseen, torch.cat([seen for seen, _, _ in self._seen]))]
        for block in unseen.split(rows_within(budget, len(readout.unembedding))) if len(unseen) else ():
            self(block, project_columns(readout, grid, block))
        seen, highest, lowest = (torch.cat(kept) for kept in zip(*self._seen, strict=True))
        order = seen.argsort()
        place = order[torch.searchsorted(seen[order], columns)]
        return highest[place], lowest[place]


def top_tokens(values: Tensor, top: int, sign: int = 1) -> Tensor:
    """Return ids of the highest (`sign` 1) or lowest (-1) values, `[n, n_vocabulary] -> [n, top]`.

    Equal to `topk`, but several times faster on long rows: the best `top` values lie in the `top` chunks with
    the best extremes, so only these are sorted.
    """
    n_vocabulary = values.shape[1]
    top = min(top, n_vocabulary)
    if n_vocabulary <= CHUNK * top:
        return values.topk(top, largest=sign > 0).indices
    whole = n_vocabulary // CHUNK * CHUNK
    chunks, rest = values[:, :whole].view(len(values), -1, CHUNK), values[:, whole:]
    extremes = chunks.amax(-1) if sign > 0 else chunks.amin(-1).neg_()
    if rest.shape[1]:
        end = rest.amax(-1) if sign > 0 else rest.amin(-1).neg_()
        extremes = torch.cat([extremes, end[:, None]], dim=1)
    best = extremes.topk(top).indices.sort().values
    ids = (best[..., None] * CHUNK + torch.arange(CHUNK, device=values.device)).flatten(1)
    candidates = values.gather(1, ids.clamp_max(n_vocabulary - 1)) * sign
    candidates.masked_fill_(ids >= n_vocabulary, -torch.inf)
    return ids.gather(1, candidates.topk(top).indices)


def rows_within(budget: int, n_vocabulary: int) -> int:
    """Return how many rows of values a budget has room for, within limits."""
    return max(MIN_ROWS, min(MAX_ROWS, budget // (4 * n_vocabulary)))
