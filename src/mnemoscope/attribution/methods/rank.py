"""Method f of the paper: how high the target stands among the tokens that the neuron promotes."""

from __future__ import annotations

from mnemoscope.attribution.methods.base import Question, Searched
from mnemoscope.attribution.methods.ranks import COARSE_TOKENS, FINE_TOKENS, RankBounds, RankScores


class Rank(Searched):
    """`1 / rank of w in bs(v)` (docs/method.md#static-scores).

    A negative coefficient turns the order around.
    """

    name = "rank"
    title = "f rank"
    formula = "1 / rank of w in bs(v)"
    # What adds nothing promotes no token above another.
    lists_silent = False

    def coarse(self, question: Question) -> RankBounds:
        """From the target's rank among some of the tokens."""
        return RankBounds(question, COARSE_TOKENS, weighted=False)

    def fine(self, question: Question) -> RankBounds:
        """The same with more tokens."""
        return RankBounds(question, FINE_TOKENS, weighted=False)

    def scorer(self, question: Question) -> RankScores:
        """From the target's rank among all tokens."""
        return RankScores(question, weighted=False)
