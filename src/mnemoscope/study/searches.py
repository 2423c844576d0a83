"""Searches for the value neurons of several facts, so that what they score first is projected together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.scores import ProjectedColumns, Scorer
from mnemoscope.attribution.search import Bounds, Pool, bound, settle


class Search:
    """The search for the best neurons of one kind of a prediction, halted before anything is scored.

    Attributes:
        prediction: whose neurons they are.
        grid: the neurons.
        pool: what is looked for; its best are proven once the search is settled.
    """

    def __init__(self, prediction: TargetPrediction, grid: Grid, pool: Pool, coarse: Bounds[Grid]) -> None:
        """Bound every neuron."""
        self.prediction, self.grid, self.pool = prediction, grid, pool
        bound(grid, [pool], coarse)

    @cached_property
    def first(self) -> Tensor:
        """The columns to score first, ascending, `[n]`."""
        return self.pool.next_round().div(self.grid.n_coefficients, rounding_mode="floor").unique()

    def settle(self, scorer: Scorer) -> None:
        """Score until the best are proven."""
        settle(self.grid, [self.pool], lambda: self.prediction.fine, scorer)


def settle_all(of_predictions: Sequence[Sequence[Search]], projected: ProjectedColumns) -> None:
    """Settle the searches of several predictions, which share what is projected to the vocabulary.

    A product of many columns costs less for each of them.

    Args:
        of_predictions: the searches of each prediction, in the same order of kinds.
        projected: where the predictions look for their columns.
    """
    for group in _fitting(of_predictions, projected.n_rows):
        for columns, search in zip(_first(group), group[0], strict=True):
            projected.places(search.grid, columns[: projected.n_rows])
        for searches in group:
            # Not kept: the blocks of all at once would be most of the memory.
            scorer = searches[0].prediction.scorer()
            for search in searches:
                search.settle(scorer)


def _fitting(of_predictions: Sequence[Sequence[Search]], most: int) -> Iterator[list[Sequence[Search]]]:
    """Neighbours whose first columns are no more than so many together; one prediction at least."""
    group: list[Sequence[Search]] = []
    for searches in of_predictions:
        if group and sum(map(len, _first([*group, searches]))) > most:
            yield group
            group = []
        group.append(searches)
    if group:
        yield group


def _first(group: Sequence[Sequence[Search]]) -> list[Tensor]:
    """The columns that several predictions score first, of each kind."""
    return [torch.cat([search.first for search in of_kind]).unique() for of_kind in zip(*group, strict=True)]
