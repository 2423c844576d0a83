"""Method a of the paper: how much adding the neuron raises the target's log probability."""

from __future__ import annotations

from mnemoscope.attribution.methods.base import Question, Searched
from mnemoscope.attribution.parts import Grid
from mnemoscope.attribution.scoring import Scorer
from mnemoscope.attribution.search import Bounds


class LogProbabilityIncrease(Searched):
    """The paper's value score, `log p(w | x + v) - log p(w | x)` in nats (docs/method.md#value-score)."""

    name = "log-probability-increase"
    title = "a log-probability increase"
    formula = "log p(w | x + v) - log p(w | x)"

    def coarse(self, question: Question) -> Bounds[Grid]:
        """See `mnemoscope.attribution.bounds`."""
        return question.coarse

    def fine(self, question: Question) -> Bounds[Grid]:
        """The same with more tokens."""
        return question.fine

    def scorer(self, question: Question) -> Scorer:
        """See `mnemoscope.attribution.scoring`."""
        return question.prediction.scorer()
