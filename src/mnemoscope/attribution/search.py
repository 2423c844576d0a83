"""Exact top-k without scoring every part: bound all, refine the few left, score those, stop when certified.

A part can be left out once its upper bound lies below the k-th best lower bound. The k parts with the
highest upper bounds are scored exactly, which raises that threshold; if many are left, they are bounded
again with more tokens; then the rest is scored in descending order of its upper bound, until no unscored
part can reach the k-th best exact score. The result equals exhaustive scoring, ties by index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mnemoscope.attribution.grids import Grid, Observer, ProjectedColumns
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.scores import Scorer

# Parts scored per pool and round after the first; fewer take hardly less time.
ROUND = 128
# How many more than k are scored in the first round, which mostly makes it the last.
SPARE = 8
# Bounding again costs as much time as scoring about so many parts.
WORTH_REFINING = 192

# The parts: the grid of one prediction, or those of several.
P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)


class Bounds(Protocol[P_contra]):
    """Bounds of scores."""

    def all(self, grid: P_contra, /) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield flat indices, lower and upper bounds, `[n, n_coefficients]` each, in ascending order."""
        ...

    def chosen(self, grid: P_contra, index: Tensor, /) -> tuple[Tensor, Tensor]:
        """Bound the parts with these ascending flat indices from below and above, `[n]` each."""
        ...


class Scores(Protocol[P_contra]):
    """Exact scores."""

    def chosen(self, grid: P_contra, index: Tensor, observer: Observer | None = None, /) -> Tensor:
        """Score the parts with these ascending flat indices, `[n]`."""
        ...


@dataclass(eq=False)
class Pool:
    """Parts that may still be among the k best of one direction.

    Attributes:
        k: number of parts wanted.
        sign: 1 for the highest scores, -1 for the lowest.
        first, stop: range of the coefficients of a column that belong to the pool.
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
        """Add parts `[n, n_coefficients]` with their bounds; leave out what cannot be among the best."""
        index, lower, upper = (each[:, self.first : self.stop].flatten() for each in (index, lower, upper))
        lower, upper = (lower, upper) if self.sign > 0 else (-upper, -lower)
        keep = upper >= self.threshold
        self.index = torch.cat([self.index.to(index.device), index[keep]])
        self.lower = torch.cat([self.lower.to(index.device), lower[keep]])
        self.upper = torch.cat([self.upper.to(index.device), upper[keep]])
        self.exact = torch.zeros(len(self.index), dtype=torch.bool, device=index.device)
        self._prune()

    def refine(self, index: Tensor, lower: Tensor, upper: Tensor, exact: bool = False) -> None:
        """Narrow the bounds of those of its parts that are in `index` (ascending).

        With `exact`, both bounds are the scores themselves and replace those of before.
        """
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
        """The k-th best lower bound; no part with an upper bound below it can be among the best."""
        if len(self.lower) < self.k:
            return -torch.inf
        return float(self.lower.topk(self.k).values[-1])

    @property
    def unscored(self) -> Tensor:
        """Flat indices of the parts left that have not been scored; none if the best are certified."""
        return self.index[~self.exact]

    def next_round(self) -> Tensor:
        """Return the unscored parts to score next, most promising first."""
        wanted = ROUND if self.exact.any() else self.k + SPARE
        order = self.upper[~self.exact].argsort(descending=True, stable=True)
        return self.unscored[order[:wanted]]

    def best(self) -> tuple[Tensor, Tensor]:
        """Return flat indices and scores of the k best, best first, ties by index."""
        order = self.index.argsort()
        index, score = self.index[order], self.lower[order]
        order = score.argsort(descending=True, stable=True)[: self.k]
        return index[order], self.sign * score[order]

    def _prune(self) -> None:
        keep = self.upper >= self.threshold
        self.index, self.exact = self.index[keep], self.exact[keep]
        self.lower, self.upper = self.lower[keep], self.upper[keep]


def search(
    grid: P,
    pools: Sequence[Pool],
    coarse: Bounds[P],
    fine: Callable[[], Bounds[P]],
    scorer: Scores[P],
    observer: Observer | None = None,
) -> Tensor:
    """Narrow the pools down to their certified best parts.

    Args:
        grid: the parts.
        pools: the lists wanted; columns needed by several are scored once for all.
        coarse: bounds of every part, from few tokens.
        fine: makes bounds from more tokens, called if many parts are left.
        scorer: exact scores.
        observer: called with the values of the scored columns.

    Returns:
        Flat indices of the parts that were scored exactly.
    """
    bound(grid, pools, coarse)
    return settle(grid, pools, fine, scorer, observer)


def bound(grid: P, pools: Sequence[Pool], coarse: Bounds[P]) -> None:
    """Put every part into the pools whose best it may be among (the first half of `search`)."""
    for index, lower, upper in coarse.all(grid):
        for pool in pools:
            pool.add(index, lower, upper)


def settle(
    grid: P,
    pools: Sequence[Pool],
    fine: Callable[[], Bounds[P]],
    scorer: Scores[P],
    observer: Observer | None = None,
) -> Tensor:
    """Score the parts in the pools until their best are certified (the second half of `search`)."""
    scored = [_score_round(grid, pools, scorer, observer)]
    many = [pool.unscored for pool in pools if len(pool.unscored) > WORTH_REFINING]
    if many:
        left = torch.cat(many).unique()
        lower, upper = fine().chosen(grid, left)
        for pool in pools:
            pool.refine(left, lower, upper)
    while len(scored[-1]):
        scored.append(_score_round(grid, pools, scorer, observer))
    return torch.cat(scored)


def _score_round(grid: P, pools: Sequence[Pool], scorer: Scores[P], observer: Observer | None) -> Tensor:
    """Score the most promising parts of every pool; return them, none if all pools are certified."""
    index = torch.cat([pool.next_round() for pool in pools]).unique()
    if len(index):
        scores = scorer.chosen(grid, index, observer)
        for pool in pools:
            pool.refine(index, scores, scores, exact=True)
    return index


class NeuronSearch:
    """Search for the best neurons of one kind of a prediction, halted before any is scored.

    Attributes:
        prediction: whose neurons are searched.
        grid: the neurons.
        pool: the wanted neurons; its best are certified once the search is settled.
    """

    def __init__(self, prediction: TargetPrediction, grid: Grid, pool: Pool) -> None:
        """Bound the score of every neuron."""
        self.prediction, self.grid, self.pool = prediction, grid, pool
        bound(grid, [pool], prediction.coarse)

    @cached_property
    def first(self) -> Tensor:
        """Columns to score first, ascending, `[n]`."""
        return (self.pool.next_round() // self.grid.n_coefficients).unique()

    def settle(self, scorer: Scorer) -> None:
        """Score neurons until the best are certified (docs/method.md#bound)."""
        settle(self.grid, [self.pool], lambda: self.prediction.fine, scorer)


def settle_searches(of_predictions: Sequence[Sequence[NeuronSearch]], projected: ProjectedColumns) -> None:
    """Settle the searches of several predictions, whose first columns are projected in one product.

    Args:
        of_predictions: the searches of each prediction, in the same order of kinds.
        projected: cache of projected columns that the predictions use.
    """
    for group in _fitting(of_predictions, projected.n_rows):
        for columns, each in zip(_first(group), group[0], strict=True):
            projected.places(each.grid, columns[: projected.n_rows])
        for searches in group:
            # Not kept: the blocks of all scorers at once would be most of the memory.
            scorer = searches[0].prediction.scorer()
            for each in searches:
                each.settle(scorer)


def _fitting(
    of_predictions: Sequence[Sequence[NeuronSearch]], most: int
) -> Iterator[list[Sequence[NeuronSearch]]]:
    """Group neighbours whose first columns together are at most `most`, or one prediction."""
    group: list[Sequence[NeuronSearch]] = []
    for searches in of_predictions:
        if group and sum(map(len, _first([*group, searches]))) > most:
            yield group
            group = []
        group.append(searches)
    if group:
        yield group


def _first(group: Sequence[Sequence[NeuronSearch]]) -> list[Tensor]:
    """Return the columns that several predictions score first, of each kind."""
    return [torch.cat([search.first for search in of_kind]).unique() for of_kind in zip(*group, strict=True)]
