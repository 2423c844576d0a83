"""Method b of the paper: the target's log probability when the neuron alone is read out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemoscope.attribution.bounds import Bounder, split_tail
from mnemoscope.attribution.methods.base import Question, Searched, with_base
from mnemoscope.attribution.parts import Grid
from mnemoscope.attribution.scoring import Scorer


class LogProbability(Searched):
    """`log p(w | v)` in nats; the readout's constant belongs to states and is left out (METHOD section 5).

    Read out alone, a neuron is added to a state that predicts every token alike: the score is the
    log-probability increase over that state, less the logarithm of the number of tokens.
    """

    name = "log-probability"
    title = "b log probability"
    formula = "log p(w | v)"

    def grid(self, question: Question) -> Grid:
        """All neurons are added to the one state."""
        return with_base(question.grid, torch.zeros_like(question.grid.base))

    def bounds(self, question: Question, n_tokens: int) -> Bounder:
        """Bounds of the increase over the uniform state."""
        prediction = question.prediction
        tail = split_tail(_uniform(question), prediction.readout.unembedding, n_tokens)
        return Bounder(prediction.geometry, prediction.readout, tail, prediction.target, prediction.budget)

    def scorer(self, question: Question) -> Scorer:
        """The increase over the uniform state."""
        prediction = question.prediction
        return Scorer(prediction.readout, _uniform(question), prediction.target, prediction.budget)

    def top(self, question: Question, k: int) -> tuple[Tensor, Tensor]:
        """The proven best."""
        index, increase = super().top(question, k)
        return index, increase - math.log(question.anatomy.n_vocabulary)

    def scores(self, question: Question, index: Tensor) -> Tensor:
        """Exact scores of some neurons."""
        return super().scores(question, index) - math.log(question.anatomy.n_vocabulary)


def _uniform(question: Question) -> Tensor:
    """Log probabilities of the state that predicts every token alike, `[1, n_vocabulary]`."""
    n_vocabulary = question.anatomy.n_vocabulary
    base = question.prediction.base.log_probabilities
    return base.new_full((1, n_vocabulary), -math.log(n_vocabulary))
