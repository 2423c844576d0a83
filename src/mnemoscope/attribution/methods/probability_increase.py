"""Method c of the paper: how much adding the neuron raises the target's probability."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from mnemoscope.attribution.methods.base import Question, Searched
from mnemoscope.attribution.parts import Grid
from mnemoscope.attribution.scoring import Observer
from mnemoscope.attribution.search import Bounds, Scores
from mnemoscope.errors import OptionError


class ProbabilityIncrease(Searched):
    """`p(w | x + v) - p(w | x)`, bounded as Imp is (docs/method.md#static-scores).

    It equals `p(w | x) (exp Imp - 1)`.
    """

    name = "probability-increase"
    title = "c probability increase"
    formula = "p(w | x + v) - p(w | x)"

    def coarse(self, question: Question) -> Bounds[Grid]:
        """Bounds of Imp, carried over."""
        return _CarriedBounds(_Carry.of(question), question.coarse)

    def fine(self, question: Question) -> Bounds[Grid]:
        """The same with more tokens."""
        return _CarriedBounds(_Carry.of(question), question.fine)

    def scorer(self, question: Question) -> Scores:
        """Exact Imp, carried over."""
        return _CarriedScores(_Carry.of(question), question.prediction.scorer())


@dataclass(frozen=True, eq=False)
class _Carry:
    """Turns increases of log p into increases of p, which keeps their order within a layer.

    Attributes:
        probability: of the target, or of all targets together, in each base state, `[n_states]`.
    """

    probability: Tensor

    @staticmethod
    def of(question: Question) -> _Carry:
        prediction = question.prediction
        if prediction.objective.against is not None:
            raise OptionError("a probability increase is not defined for log-odds; leave `against` out")
        return _Carry(prediction.values.exp())

    def __call__(self, grid: Grid, index: Tensor, increase: Tensor) -> Tensor:
        layer, _, _ = grid.locate(index)
        return self.probability[grid.base[layer]] * increase.expm1()


@dataclass(frozen=True)
class _CarriedBounds:
    carry: _Carry
    inner: Bounds

    def all(self, grid: Grid) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Bounds of every neuron."""
        for index, lower, upper in self.inner.all(grid):
            yield index, self.carry(grid, index, lower), self.carry(grid, index, upper)

    def chosen(self, grid: Grid, index: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of some neurons."""
        lower, upper = self.inner.chosen(grid, index)
        return self.carry(grid, index, lower), self.carry(grid, index, upper)


@dataclass(frozen=True)
class _CarriedScores:
    carry: _Carry
    inner: Scores

    def chosen(self, grid: Grid, index: Tensor, observer: Observer | None = None) -> Tensor:
        """Exact scores of some neurons."""
        return self.carry(grid, index, self.inner.chosen(grid, index, observer))
