"""Exact top-k without scoring every part: bound all, refine the few left, score those, stop when proven.

A part can be left out once its upper bound lies below the k-th best lower bound. What is left is
bounded again with more tokens, then scored exactly in descending order of its upper bound, until no
unscored part can reach the k-th best exact score. The result equals exhaustive scoring, ties by index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnemoscope.attribution.bounds import Bounder
from mnemoscope.attribution.parts import Grid
from mnemoscope.attribution.scoring import Observer, Scorer

# Parts scored per round after the first; small enough to profit from a threshold that rises.
ROUND = 96


@dataclass
class Pool:
    """The parts that may still be among the k best of one direction.

    Attributes:
        k: how many are wanted.
        sign: 1 for the highest scores, -1 for the lowest.
        first, stop: which coefficients of a column belong to the pool.
        index: flat indices of the parts left, `[n]`.
        lower, upper: their bounds times `sign`, `[n]`, nats.
        exact: whether they have been scored, `[n]`.
    """

    k: int
    sign: int
    first: int
    stop: int
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    lower: Tensor = field(default_factory=lambda: torch.empty(0))
    upper: Tensor = field(default_factory=lambda: torch.empty(0))
    exact: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))

    def add(self, index: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Take in parts with their bounds and leave out those that cannot be among the best."""
        lower, upper = (lower, upper) if self.sign > 0 else (-upper, -lower)
        keep = upper >= self.threshold
        self.index = torch.cat([self.index.to(index.device), index[keep]])
        self.lower = torch.cat([self.lower.to(index.device), lower[keep]])
        self.upper = torch.cat([self.upper.to(index.device), upper[keep]])
        self.exact = torch.zeros(len(self.index), dtype=torch.bool, device=index.device)
        self._prune()

    def refine(self, index: Tensor, lower: Tensor, upper: Tensor, exact: bool = False) -> None:
        """Narrow the bounds of those of its parts that are in `index` (ascending)."""
        lower, upper = (lower, upper) if self.sign > 0 else (-upper, -lower)
        position = torch.searchsorted(index, self.index).clamp_max(len(index) - 1)
        known = index[position] == self.index
        position = position[known]
        if exact:
            self.lower[known], self.upper[known] = lower[position], upper[position]
            self.exact |= known
        else:
            self.lower[known] = torch.maximum(self.lower[known], lower[position])
            self.upper[known] = torch.minimum(self.upper[known], upper[position])
        self._prune()

    @property
    def threshold(self) -> float:
        """The k-th best lower bound; nothing whose upper bound is below it can be among the best."""
        if len(self.lower) < self.k:
            return -torch.inf
        return float(self.lower.topk(self.k).values[-1])

    def next_round(self) -> Tensor:
        """The unscored parts to score next, none if the best are proven."""
        open_ = torch.nonzero(~self.exact)[:, 0]
        wanted = max(ROUND, self.k - int(self.exact.sum()))
        best = self.upper[open_].argsort(descending=True, stable=True)[:wanted]
        return self.index[open_[best]]

    def best(self) -> tuple[Tensor, Tensor]:
        """Flat indices and scores of the k best, best first, ties by index."""
        order = self.index.argsort()
        index, score = self.index[order], self.lower[order]
        order = score.argsort(descending=True, stable=True)[: self.k]
        return index[order], self.sign * score[order]

    def _prune(self) -> None:
        keep = self.upper >= self.threshold
        self.index, self.exact = self.index[keep], self.exact[keep]
        self.lower, self.upper = self.lower[keep], self.upper[keep]


def search(
    grid: Grid,
    pools: Sequence[Pool],
    coarse: Bounder,
    fine: Bounder,
    scorer: Scorer,
    observer: Observer | None = None,
) -> int:
    """Narrow the pools down to their proven best parts.

    Args:
        grid: the parts.
        pools: what is looked for; columns needed by several are scored once for all.
        coarse: bounds of every part, from few tokens.
        fine: bounds of the parts left, from more tokens.
        scorer: exact scores.
        observer: shown the values of what is scored.

    Returns:
        The number of parts scored exactly.
    """
    for index, lower, upper in coarse.all(grid):
        for pool in pools:
            some = slice(pool.first, pool.stop)
            pool.add(index[:, some].flatten(), lower[:, some].flatten(), upper[:, some].flatten())
    left = _union([pool.index for pool in pools if len(pool.index) > pool.k])
    if len(left):
        lower, upper = fine.chosen(grid, left)
        for pool in pools:
            pool.refine(left, lower, upper)
    return _score(grid, pools, scorer, observer)


def _score(grid: Grid, pools: Sequence[Pool], scorer: Scorer, observer: Observer | None) -> int:
    scored = 0
    while len(index := _union([pool.next_round() for pool in pools])):
        scores = scorer.chosen(grid, index, observer)
        scored += len(index)
        for pool in pools:
            pool.refine(index, scores, scores, exact=True)
    return scored


def _union(indices: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(indices)).unique() if indices else torch.empty(0, dtype=torch.long)
