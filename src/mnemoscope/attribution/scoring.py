"""Exact log-probability increase (METHOD section 4), for chosen parts or for all of them.

`Imp(v; x) = bs_w(v) - log E_{k ~ p(.|x)}[exp bs_k(v)]`: one projection to the vocabulary per
column, shared by all coefficients of that column, then one log-sum-exp per part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mnemoscope.attribution.base import log_sum_exp_
from mnemoscope.attribution.parts import Grid, by_layer
from mnemoscope.model.readout import FrozenReadout

# Some libraries compute products and sums of fewer rows in another order, with another rounding;
# with at least this many, equal neurons get equal scores whatever block they are scored in.
MIN_ROWS = 16
MAX_ROWS = 144

# Shown the columns of a block (layer * n_columns + column, ascending) and their before-softmax
# values `[n, n_vocabulary]`, to be read and not kept.
Observer = Callable[[Tensor, Tensor], None]


class Scorer:
    """Scores parts of one prediction exactly.

    Two blocks of `[rows, n_vocabulary]` are made once and used for every part: fresh memory of that
    size costs as much time as the arithmetic.
    """

    def __init__(self, readout: FrozenReadout, log_probabilities: Tensor, target: int, budget: int) -> None:
        """Prepare for one prediction.

        Args:
            readout: the frozen readout of the prediction.
            log_probabilities: what each base state predicts, `[n_states, n_vocabulary]`.
            target: token id.
            budget: bytes that the blocks may take.
        """
        self.readout = readout
        self.log_probabilities = log_probabilities
        self.target = target
        n_vocabulary = log_probabilities.shape[1]
        self.rows = max(MIN_ROWS, min(MAX_ROWS, budget // (2 * 4 * n_vocabulary)))
        self._values = log_probabilities.new_empty(self.rows, n_vocabulary)
        self._exponents = log_probabilities.new_empty(self.rows, n_vocabulary)
        self._before = torch.logsumexp(log_probabilities, dim=-1)

    def chosen(self, grid: Grid, index: Tensor, observer: Observer | None = None) -> Tensor:
        """Scores of the parts with these flat indices, ascending and unique, `[n] -> [n]`, nats."""
        layer, column, coefficient = grid.locate(index)
        factors = grid.gather_coefficients(layer, column, coefficient)
        states = grid.base[layer]
        columns, rank = torch.unique_consecutive(layer * grid.n_columns + column, return_inverse=True)
        scores = torch.empty(len(index), device=index.device)
        n_blocks = -(-len(columns) // self.rows)
        start = 0
        for block in columns.tensor_split(max(n_blocks, 1)):
            values = self._project(grid, block)
            if observer is not None:
                observer(block, values)
            inside = torch.nonzero((rank >= start) & (rank < start + len(block)))[:, 0]
            for some in inside.split(self.rows):
                scores[some] = self._score(values, rank[some] - start, factors[some], states[some])
            start += len(block)
        return scores

    def all(self, grid: Grid, report: Callable[[int], None] | None = None) -> Tensor:
        """Scores of every part, `[n_layers, n_columns, n_coefficients]`, in nats.

        Args:
            grid: the parts.
            report: told the number of columns done after each block.
        """
        blocks = []
        index = torch.arange(grid.size, device=grid.base.device).view(-1, grid.n_coefficients)
        for block in index.tensor_split(-(-len(index) // self.rows)):
            blocks.append(self.chosen(grid, block.flatten()))
            if report is not None:
                report(len(block))
        return torch.cat(blocks).view(grid.shape)

    def _project(self, grid: Grid, columns: Tensor) -> Tensor:
        """Before-softmax values of columns (layer * n_columns + column), `[n, n_vocabulary]`."""
        layer = columns.div(grid.n_columns, rounding_mode="floor")
        folded = self.readout.fold(grid.gather_columns(layer, columns % grid.n_columns))
        n_rows = max(len(folded), MIN_ROWS)
        padded = torch.nn.functional.pad(folded, (0, 0, 0, n_rows - len(folded)))
        return self.readout.project(padded, out=self._values[:n_rows])[: len(folded)]

    def _score(self, values: Tensor, rank: Tensor, factors: Tensor, states: Tensor) -> Tensor:
        """`Imp` of parts whose column is row `rank` of `values` and whose states ascend, `[n]`."""
        n_parts = len(rank)
        direct = factors * values[rank, self.target]
        exponents = self._exponents[: max(n_parts, MIN_ROWS)]
        torch.mul(_rows(values, rank), factors[:, None], out=exponents[:n_parts])
        for state, some in by_layer(states):
            exponents[some] += self.log_probabilities[state]
        after = log_sum_exp_(exponents)[:n_parts]
        return direct - (after - self._before[states])


def _rows(values: Tensor, rank: Tensor) -> Tensor:
    """`values[rank]` for ascending ranks, without a copy where they are consecutive."""
    first, last = int(rank[0]), int(rank[-1])
    consecutive = last - first + 1 == len(rank) and bool((rank.diff() == 1).all())
    return values[first : last + 1] if consecutive else values.index_select(0, rank)
