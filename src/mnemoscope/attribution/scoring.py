"""Exact log-probability increase (METHOD section 4), for chosen parts or for all of them.

`Imp(v; x) = bs_w(v) - log E_{k ~ p(.|x)}[exp bs_k(v)]`: one projection to the vocabulary per column,
shared by all coefficients of that column, then one log-sum-exp per part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.attribution.parts import Grid
from mnemoscope.model.readout import FrozenReadout

# Matrix products of fewer rows take another path through some BLAS libraries and round differently;
# with at least this many, equal neurons get equal scores whatever block they are scored in.
MIN_ROWS = 16
MAX_ROWS = 256


@dataclass(frozen=True)
class Scorer:
    """Scores parts of one prediction exactly.

    Attributes:
        readout: the frozen readout of the prediction.
        log_probabilities: what each base state predicts, `[n_states, n_vocabulary]`.
        target: token id.
        budget: bytes that temporary tensors may take.
    """

    readout: FrozenReadout
    log_probabilities: Tensor
    target: int
    budget: int

    @property
    def columns_per_block(self) -> int:
        """How many columns are projected at once; two more blocks of that size are needed beside it."""
        row = 3 * self.log_probabilities.shape[1] * 4
        return max(MIN_ROWS, min(MAX_ROWS, self.budget // row))

    def chosen(self, grid: Grid, index: Tensor) -> Tensor:
        """Scores of the parts with these flat indices, ascending and unique, `[n] -> [n]`, nats."""
        layer, column, coefficient = grid.locate(index)
        factors = grid.gather_coefficients(layer, column, coefficient)
        states = grid.base[layer]
        columns, rank = torch.unique_consecutive(layer * grid.n_columns + column, return_inverse=True)
        scores = torch.empty(len(index), device=index.device)
        for start in range(0, len(columns), self.columns_per_block):
            block = columns[start : start + self.columns_per_block]
            values = self._values(grid, block)
            inside = torch.nonzero((rank >= start) & (rank < start + len(block)))[:, 0]
            for some in inside.split(self.columns_per_block):
                scores[some] = self._increase(values[rank[some] - start], factors[some], states[some])
        return scores

    def all(self, grid: Grid, report: Callable[[int], None] | None = None) -> Tensor:
        """Scores of every part, `[n_layers, n_columns, n_coefficients]`, in nats.

        Args:
            grid: the parts.
            report: told the number of columns done after each block.
        """
        blocks = []
        n_columns = grid.n_layers * grid.n_columns
        for start in range(0, n_columns, self.columns_per_block):
            stop = min(start + self.columns_per_block, n_columns)
            index = torch.arange(
                start * grid.n_coefficients, stop * grid.n_coefficients, device=grid.base.device
            )
            blocks.append(self.chosen(grid, index))
            if report is not None:
                report(stop - start)
        return torch.cat(blocks).view(grid.shape)

    def _values(self, grid: Grid, columns: Tensor) -> Tensor:
        """Before-softmax values of columns (layer * n_columns + column), `[n, n_vocabulary]`."""
        layer = columns.div(grid.n_columns, rounding_mode="floor")
        vectors = grid.gather_columns(layer, columns % grid.n_columns)
        return self.readout.project(self.readout.fold(_padded(vectors)))[: len(vectors)]

    def _increase(self, values: Tensor, factors: Tensor, states: Tensor) -> Tensor:
        """`Imp` of parts with these column values `[n, n_vocabulary]` (overwritten), `[n]`."""
        direct = factors * values[:, self.target]
        before = torch.logsumexp(_padded(self.log_probabilities[states]), dim=-1)
        values.mul_(factors[:, None]).add_(self.log_probabilities[states])
        after = torch.logsumexp(_padded(values), dim=-1)
        return direct - (after - before)[: len(direct)]


def _padded(rows: Tensor) -> Tensor:
    """At least `MIN_ROWS` rows, the missing ones zero."""
    missing = MIN_ROWS - len(rows)
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows
