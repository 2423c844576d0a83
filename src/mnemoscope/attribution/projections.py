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
