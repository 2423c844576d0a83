"""Certified searches of several predictions at once, whose first columns are projected in one product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.projections import ProjectedColumns
from mnemoscope.attribution.scores import Scorer
from mnemoscope.attribution.search import Pool, bound, settle


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
        for columns, search in zip(_first(group), group[0], strict=True):
            projected.places(search.grid, columns[: projected.n_rows])
        for searches in group:
            # Not kept: the blocks of all scorers at once would be most of the memory.
            scorer = searches[0].prediction.scorer()
            for search in searches:
                search.settle(scorer)


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
