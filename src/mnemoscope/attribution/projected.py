"""Columns projected to the vocabulary, kept for the predictions that follow.

The before-softmax values of a neuron's column depend on the weights alone, but for the scale of the final
norm (docs/method.md#bound), and facts of one type have many of their best neurons in common.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mnemoscope.attribution.parts import Grid
from mnemoscope.model.readout import FrozenReadout, Readout

# Rows that one call may ask for: as many as are scored at once.
MAX_ROWS = 144
# Some libraries compute products of fewer rows in another order, with another rounding; with at least this
# many, equal neurons get equal values whatever block they are in.
MIN_ROWS = 16


class ProjectedColumns:
    """Before-softmax values at scale 1 of columns of weights.

    Attributes:
        readout: of the model.
        n_rows: how many columns there is room for.
        values: `[n_rows, n_vocabulary]` float32, to be read at the places that `places` gives.
    """

    def __init__(self, readout: Readout, budget: int) -> None:
        """Room for as many rows as a budget of bytes has, two blocks at least."""
        self.readout = readout
        n_vocabulary = len(readout.unembedding)
        self.n_rows = max(2 * MAX_ROWS, budget // (4 * n_vocabulary))
        self.values = torch.empty(self.n_rows, n_vocabulary, device=readout.unembedding.device)
        self._unscaled = FrozenReadout(
            readout.norm, readout.unembedding, torch.zeros(()), torch.ones((), device=self.values.device)
        )
        self._place: dict[tuple[int, int], int] = {}
        self._n_filled = 0

    def places(self, grid: Grid, columns: Tensor) -> Tensor:
        """The rows where the values of columns are, `[n] -> [n]`; those not there are projected.

        Args:
            grid: a grid of weights.
            columns: `layer * n_columns + column`, ascending, at most `n_rows`.
        """
        keys = self._keys(grid, columns)
        # In the order in which they were last asked for.
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
        return torch.tensor([self._place[key] for key in keys], device=columns.device)

    def _keys(self, grid: Grid, columns: Tensor) -> list[tuple[int, int]]:
        """What columns are known by: the module that holds them, and their number in it."""
        assert grid.weights is not None
        places = (divmod(number, grid.n_columns) for number in columns.tolist())
        return [(id(grid.weights[layer].module), column) for layer, column in places]

    def _free_row(self) -> int:
        """A row that was never filled, or that of the column that was not asked for for longest."""
        if self._n_filled == len(self.values):
            return self._place.pop(next(iter(self._place)))
        self._n_filled += 1
        return self._n_filled - 1


def project_columns(readout: FrozenReadout, grid: Grid, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """Before-softmax values of columns (layer * n_columns + column, ascending), `[n, n_vocabulary]`."""
    layer = columns.div(grid.n_columns, rounding_mode="floor")
    folded = readout.fold(grid.gather_columns(layer, columns % grid.n_columns))
    n_rows = max(len(folded), MIN_ROWS)
    padded = torch.nn.functional.pad(folded, (0, 0, 0, n_rows - len(folded)))
    return readout.project(padded, out=None if out is None else out[:n_rows])[: len(folded)]
