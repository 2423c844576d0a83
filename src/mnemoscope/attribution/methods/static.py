"""Methods a, b, c, d, e and g of the paper: log probability, probability, norms, coefficients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mnemoscope.attribution.bounds import Bounder, bounder
from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.methods.base import Exhaustive, MethodInput, Searched
from mnemoscope.attribution.prediction import COARSE_TOKENS, FINE_TOKENS
from mnemoscope.attribution.scores import Observer, Scorer
from mnemoscope.attribution.search import Bounds, Scores
from mnemoscope.attribution.tails import split_tail
from mnemoscope.errors import OptionError
from mnemoscope.model.readout import Predicted


class LogProbabilityIncrease(Searched):
    """Value score `log p(w | x + v) - log p(w | x)`, nats (docs/method.md#value-score)."""

    name = "log-probability-increase"
    title = "a log-probability increase"
    formula = "log p(w | x + v) - log p(w | x)"

    def bounds(self, question: MethodInput, *, fine: bool) -> Bounds[Grid]:
        """Return the bounds of `mnemoscope.attribution.bounds`."""
        return question.fine if fine else question.coarse

    def scorer(self, question: MethodInput) -> Scorer:
        """Return the scores of `mnemoscope.attribution.scores`."""
        return question.prediction.scorer()


class LogProbability(Searched):
    """`log p(w | v)` in nats, without the readout's constant (docs/method.md#static-scores).

    That is the log-probability increase over a state that predicts every token alike, less the logarithm of
    the number of tokens.
    """

    name = "log-probability"
    title = "b log probability"
    formula = "log p(w | v)"

    def grid(self, question: MethodInput) -> Grid:
        """Return the neurons, all added to one state."""
        return replace(question.grid, base=torch.zeros_like(question.grid.base))

    def bounds(self, question: MethodInput, *, fine: bool) -> Bounder:
        """Return bounds of the increase over the uniform state."""
        prediction, predicted = question.prediction, _uniform(question)
        n_tokens = FINE_TOKENS if fine else COARSE_TOKENS
        tail = partial(split_tail, predicted, prediction.readout.unembedding, n_tokens)
        return bounder(prediction.focus, predicted, tail, {}, prediction.geometry, prediction.budget)

    def scorer(self, question: MethodInput) -> Scorer:
        """Return the increase over the uniform state."""
        prediction = question.prediction
        focus = prediction.focus
        return Scorer(
            focus.readout, _uniform(question), focus.objective, prediction.budget, prediction.projected
        )

    def top(self, question: MethodInput, k: int) -> tuple[Tensor, Tensor]:
        """Return the certified best."""
        index, increase = super().top(question, k)
        return index, increase + _value(question)

    def scores(self, question: MethodInput, index: Tensor) -> Tensor:
        """Score some neurons exactly."""
        return super().scores(question, index) + _value(question)


def _uniform(question: MethodInput) -> Predicted:
    """Return the prediction of a state that predicts every token in focus alike."""
    return question.prediction.predicted.alike()


def _value(question: MethodInput) -> Tensor:
    """Compute the objective in that state, `[1]`."""
    return question.prediction.focus.objective.value(_uniform(question).log_probabilities)


class ProbabilityIncrease(Searched):
    """`p(w | x + v) - p(w | x) = p(w | x) (exp Imp - 1)` (docs/method.md#static-scores)."""

    name = "probability-increase"
    title = "c probability increase"
    formula = "p(w | x + v) - p(w | x)"

    def bounds(self, question: MethodInput, *, fine: bool) -> Bounds[Grid]:
        """Return bounds of Imp, carried over."""
        return _CarriedBounds(_Carry.of(question), question.fine if fine else question.coarse)

    def scorer(self, question: MethodInput) -> Scores:
        """Return exact Imp, carried over."""
        return _CarriedScores(_Carry.of(question), question.prediction.scorer())


@dataclass(frozen=True, eq=False)
class _Carry:
    """Map from increases of log p to increases of p, which keeps their order within a layer.

    Attributes:
        probability: of the target, or of all targets together, in each base state, `[n_states]`.
    """

    probability: Tensor

    @staticmethod
    def of(question: MethodInput) -> _Carry:
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
        """Yield bounds of every neuron."""
        for index, lower, upper in self.inner.all(grid):
            yield index, self.carry(grid, index, lower), self.carry(grid, index, upper)

    def chosen(self, grid: Grid, index: Tensor) -> tuple[Tensor, Tensor]:
        """Bound some neurons."""
        lower, upper = self.inner.chosen(grid, index)
        return self.carry(grid, index, lower), self.carry(grid, index, upper)


@dataclass(frozen=True)
class _CarriedScores:
    carry: _Carry
    inner: Scores

    def chosen(self, grid: Grid, index: Tensor, observer: Observer | None = None) -> Tensor:
        """Score some neurons exactly."""
        return self.carry(grid, index, self.inner.chosen(grid, index, observer))


class Norm(Exhaustive):
    """`||fc2||`: depends on the weights (and a post-norm's scale) alone (docs/method.md#static-scores)."""

    name = "norm"
    title = "d norm"
    formula = "||fc2||"

    def all(self, question: MethodInput) -> Tensor:
        """Return every column's norm."""
        return question.norms


class Coefficient(Exhaustive):
    """`|m|`: depends on the prompt and not on the target (docs/method.md#static-scores)."""

    name = "coefficient"
    title = "e coefficient"
    formula = "|m|"

    def all(self, question: MethodInput) -> Tensor:
        """Return every coefficient's magnitude."""
        return question.coefficients.abs()


class NormTimesCoefficient(Exhaustive):
    """`|m| ||fc2||`: depends on the prompt and not on the target (docs/method.md#static-scores)."""

    name = "norm-times-coefficient"
    title = "g norm x coefficient"
    formula = "|m| ||fc2||"

    def all(self, question: MethodInput) -> Tensor:
        """Return the norm of every added vector."""
        return question.coefficients.abs() * question.norms
