"""Method a of the paper: how much adding the neuron raises the target's log probability."""

from __future__ import annotations

from mnemoscope.attribution.bounds import Bounder
from mnemoscope.attribution.methods.base import Question, Searched
from mnemoscope.attribution.scoring import Scorer


class LogProbabilityIncrease(Searched):
    """The paper's value score, `log p(w | x + v) - log p(w | x)` in nats (METHOD section 4)."""

    name = "log-probability-increase"
    title = "a log-probability increase"
    formula = "log p(w | x + v) - log p(w | x)"

    def bounds(self, question: Question, n_tokens: int) -> Bounder:
        """See `mnemoscope.attribution.bounds`."""
        return question.prediction.bounder(n_tokens)

    def scorer(self, question: Question) -> Scorer:
        """See `mnemoscope.attribution.scoring`."""
        return question.prediction.scorer()
