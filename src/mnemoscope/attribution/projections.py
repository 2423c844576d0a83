"""Columns projected to the vocabulary: their before-softmax values, kept from prompt to prompt.

Those of a neuron's column depend on the weights alone, but for the scale of the final norm, and facts of one
type have many of their best neurons in common.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mnemoscope.attribution.grids import Grid
from mnemoscope.model.readout import FrozenReadout, Readout

# Rows that one call may ask for: as many as are scored at once.
MAX_ROWS = 144
# Some libraries compute products of fewer rows in another order, with another rounding; with at least this
# many, equal neurons get equal values whatever block they are in.
MIN_ROWS = 16


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
        keys = self._keys(grid, columns)
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

    def _keys(self, grid: Grid, columns: Tensor) -> list[tuple[int, int]]:
        """Identify columns by the module that holds them and their number in it."""
        assert grid.weights is not None
        places = (divmod(number, grid.n_columns) for number in columns.tolist())
        return [(id(grid.weights[layer].module), column) for layer, column in places]

    def _free_row(self) -> int:
        """Return an unused row, or the row of the least recently used column."""
        if self._n_filled == len(self.values):
            return self._place.pop(next(iter(self._place)))
        self._n_filled += 1
        return self._n_filled - 1


def project_columns(readout: FrozenReadout, grid: Grid, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute the values of columns (layer * n_columns + column, ascending), `[n, n_vocabulary]`."""
    layer = columns.div(grid.n_columns, rounding_mode="floor")
    folded = readout.fold(grid.gather_columns(layer, columns % grid.n_columns))
    n_rows = max(len(folded), MIN_ROWS)
    padded = torch.nn.functional.pad(folded, (0, 0, 0, n_rows - len(folded)))
    return readout.project(padded, out=None if out is None else out[:n_rows])[: len(folded)]


# Shown the columns of a block (layer * n_columns + column, ascending) and their before-softmax
# values `[n, n_vocabulary]` (those of the readout's tokens), to be read and not kept.
Observer = Callable[[Tensor, Tensor], None]


def show(readout: FrozenReadout, grid: Grid, columns: Tensor, observer: Observer, budget: int) -> None:
    """Show an observer columns (layer * n_columns + column, ascending) without scoring them.

    Args:
        readout: the frozen readout of the tokens to show their values for.
        grid: the parts.
        columns: the columns.
        observer: called with some at a time.
        budget: bytes that a block of values may take.
    """
    for block in columns.split(rows_within(budget, len(readout.unembedding))):
        observer(block, project_columns(readout, grid, block))


def rows_within(budget: int, n_vocabulary: int) -> int:
    """Return how many rows of values a budget has room for, within limits."""
    return max(MIN_ROWS, min(MAX_ROWS, budget // (4 * n_vocabulary)))
