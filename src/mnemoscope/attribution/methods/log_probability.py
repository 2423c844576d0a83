"""Method b of the paper: the target's log probability when the neuron alone is read out."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mnemoscope.attribution.bounds import Bounder, bounder
from mnemoscope.attribution.methods.base import Question, Searched, with_base
from mnemoscope.attribution.parts import Grid
from mnemoscope.attribution.prediction import COARSE_TOKENS, FINE_TOKENS
from mnemoscope.attribution.scoring import Scorer
from mnemoscope.attribution.tails import split_tail
from mnemoscope.model.readout import Predicted


class LogProbability(Searched):
    """`log p(w | v)` in nats, without the readout's constant (docs/method.md#static-scores).

    Read out alone, a neuron is added to a state that predicts every token alike: the score is the
    log-probability increase over that state, less the logarithm of the number of tokens.
    """

    name = "log-probability"
    title = "b log probability"
    formula = "log p(w | v)"

    def grid(self, question: Question) -> Grid:
        """All neurons are added to the one state."""
        return with_base(question.grid, torch.zeros_like(question.grid.base))

    def coarse(self, question: Question) -> Bounder:
        """Bounds of the increase over the uniform state."""
        return _bounder(question, COARSE_TOKENS)

    def fine(self, question: Question) -> Bounder:
        """The same with more tokens."""
        return _bounder(question, FINE_TOKENS)

    def scorer(self, question: Question) -> Scorer:
        """The increase over the uniform state."""
        prediction = question.prediction
        focus = prediction.focus
        return Scorer(
            focus.readout, _uniform(question), focus.objective, prediction.budget, prediction.projected
        )

    def top(self, question: Question, k: int) -> tuple[Tensor, Tensor]:
        """The proven best."""
        index, increase = super().top(question, k)
        return index, increase + _value(question)

    def scores(self, question: Question, index: Tensor) -> Tensor:
        """Exact scores of some neurons."""
        return super().scores(question, index) + _value(question)


def _bounder(question: Question, n_tokens: int) -> Bounder:
    prediction = question.prediction
    predicted = _uniform(question)
    tail = partial(split_tail, predicted, prediction.readout.unembedding, n_tokens)
    return bounder(prediction.focus, predicted, tail, {}, prediction.geometry, prediction.budget)


def _uniform(question: Question) -> Predicted:
    """What the state predicts that predicts every token in focus alike."""
    return question.prediction.predicted.alike()


def _value(question: Question) -> Tensor:
    """Of the objective in that state, `[1]`."""
    return question.prediction.focus.objective.value(_uniform(question).log_probabilities)
