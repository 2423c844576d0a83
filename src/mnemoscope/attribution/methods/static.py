"""Methods a, b, c, d, e and g of the paper: log probability, probability, norms, coefficients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mnemoscope.attribution.bounds import Bounder, bounder
from mnemoscope.attribution.grids import Grid, Observer
from mnemoscope.attribution.methods.base import Exhaustive, MethodInput, Searched
from mnemoscope.attribution.prediction import COARSE_TOKENS, FINE_TOKENS, TargetPrediction
from mnemoscope.attribution.scores import Scorer
from mnemoscope.attribution.search import Bounds, Scores
from mnemoscope.attribution.tails import split_tail
from mnemoscope.errors import OptionError
from mnemoscope.model.readout import Predicted


class LogProbabilityIncrease(Searched):
    """Value score `log p(w | x + v) - log p(w | x)`, nats (docs/method.md#value-score)."""

    name = "log-probability-increase"
    title = "a log-probability increase"
    formula = "log p(w | x + v) - log p(w | x)"

    def bounds(self, method_input: MethodInput, *, fine: bool) -> Bounds[Grid]:
        """Return the bounds of `mnemoscope.attribution.bounds`."""
        prediction = method_input.prediction
        return prediction.fine if fine else prediction.coarse

    def scorer(self, method_input: MethodInput) -> Scorer:
        """Return the scores of `mnemoscope.attribution.scores`."""
        return method_input.prediction.scorer()


class LogProbability(Searched):
    """`log p(w | v)` in nats, without the readout's constant (docs/method.md#static-scores).

    That is the log-probability increase over a state that predicts every token alike, less the logarithm of
    the number of tokens.
    """

    name = "log-probability"
    title = "b log probability"
    formula = "log p(w | v)"

    def grid(self, method_input: MethodInput) -> Grid:
        """Return the neurons, all added to one state."""
        return replace(method_input.grid, base=torch.zeros_like(method_input.grid.base))

    def bounds(self, method_input: MethodInput, *, fine: bool) -> Bounder:
        """Return bounds of the increase over the uniform state."""
        prediction, predicted = method_input.prediction, _uniform(method_input)
        n_tokens = FINE_TOKENS if fine else COARSE_TOKENS
        tail = partial(split_tail, predicted, prediction.readout.unembedding, n_tokens)
        return bounder(prediction.focus, predicted, tail, prediction.geometry, prediction.budget)

    def scorer(self, method_input: MethodInput) -> Scorer:
        """Return the increase over the uniform state."""
        prediction = method_input.prediction
        focus = prediction.focus
        return Scorer(
            focus.readout, _uniform(method_input), focus.objective, prediction.budget, prediction.projected
        )

    def top(self, method_input: MethodInput, k: int) -> tuple[Tensor, Tensor]:
        """Return the certified best."""
        index, increase = super().top(method_input, k)
        return index, increase + _value(method_input)

    def scores(self, method_input: MethodInput, index: Tensor) -> Tensor:
        """Score some neurons exactly."""
        return super().scores(method_input, index) + _value(method_input)


def _uniform(method_input: MethodInput) -> Predicted:
    """Return the prediction of a state that predicts every token in focus alike."""
    return method_input.prediction.predicted.alike()


def _value(method_input: MethodInput) -> Tensor:
    """Compute the objective in that state, `[1]`."""
    return method_input.prediction.focus.objective.value(_uniform(method_input).log_probabilities)


class ProbabilityIncrease(Searched):
    """`p(w | x + v) - p(w | x) = p(w | x) (exp Imp - 1)` (docs/method.md#static-scores)."""

    name = "probability-increase"
    title = "c probability increase"
    formula = "p(w | x + v) - p(w | x)"
    takes_log_odds = False

    def bounds(self, method_input: MethodInput, *, fine: bool) -> Bounds[Grid]:
        """Return bounds of Imp, carried over.

        Raises:
            OptionError: the objective is log-odds.
        """
        prediction = _of_probability(method_input)
        return _CarriedBounds(prediction, prediction.fine if fine else prediction.coarse)

    def scorer(self, method_input: MethodInput) -> Scores:
        """Return exact Imp, carried over.

        Raises:
            OptionError: the objective is log-odds.
        """
        prediction = _of_probability(method_input)
        return _CarriedScores(prediction, prediction.scorer())


def _of_probability(method_input: MethodInput) -> TargetPrediction:
    """Return the prediction; refuse one of log-odds."""
    if method_input.prediction.objective.against is not None:
        raise OptionError("a probability increase is not defined for log-odds; leave `against` out")
    return method_input.prediction


@dataclass(frozen=True)
class _CarriedBounds:
    prediction: TargetPrediction
    inner: Bounds

    def all(self, grid: Grid) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield bounds of every neuron."""
        for index, *bounds in self.inner.all(grid):
            lower, upper = (_carried(self.prediction, grid, index, bound) for bound in bounds)
            yield index, lower, upper

    def chosen(self, grid: Grid, index: Tensor) -> tuple[Tensor, Tensor]:
        """Bound some neurons."""
        lower, upper = self.inner.chosen(grid, index)
        return _carried(self.prediction, grid, index, lower), _carried(self.prediction, grid, index, upper)


@dataclass(frozen=True)
class _CarriedScores:
    prediction: TargetPrediction
    inner: Scores

    def chosen(self, grid: Grid, index: Tensor, observer: Observer | None = None) -> Tensor:
        """Score some neurons exactly."""
        return _carried(self.prediction, grid, index, self.inner.chosen(grid, index, observer))


def _carried(prediction: TargetPrediction, grid: Grid, index: Tensor, increase: Tensor) -> Tensor:
    """Turn increases of log p into increases of p, which keeps their order within a layer."""
    layer, _, _ = grid.locate(index)
    return prediction.values.exp()[grid.base[layer]] * increase.expm1()


class Norm(Exhaustive):
    """`||fc2||`: depends on the weights (and a post-norm's scale) alone (docs/method.md#static-scores)."""

    name = "norm"
    title = "d norm"
    formula = "||fc2||"

    def all(self, method_input: MethodInput) -> Tensor:
        """Return every column's norm."""
        return method_input.norms


class Coefficient(Exhaustive):
    """`|m|`: depends on the prompt and not on the target (docs/method.md#static-scores)."""

    name = "coefficient"
    title = "e coefficient"
    formula = "|m|"

    def all(self, method_input: MethodInput) -> Tensor:
        """Return every coefficient's magnitude."""
        return method_input.coefficients.abs()


class NormTimesCoefficient(Exhaustive):
    """`|m| ||fc2||`: depends on the prompt and not on the target (docs/method.md#static-scores)."""

    name = "norm-times-coefficient"
    title = "g norm x coefficient"
    formula = "|m| ||fc2||"

    def all(self, method_input: MethodInput) -> Tensor:
        """Return the norm of every added vector."""
        return method_input.coefficients.abs() * method_input.norms
