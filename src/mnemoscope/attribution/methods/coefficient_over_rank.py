"""Method h of the paper: an active neuron that promotes the target highly."""

from __future__ import annotations

from dataclasses import replace

import torch

from mnemoscope.attribution.methods.base import Question, Searched
from mnemoscope.attribution.methods.ranks import COARSE_TOKENS, FINE_TOKENS, RankBounds, RankScores
from mnemoscope.attribution.parts import Grid


class CoefficientOverRank(Searched):
    """`|m| / rank of w in bs(v)` (docs/method.md#static-scores)."""

    name = "coefficient-over-rank"
    title = "h coefficient / rank"
    formula = "|m| / rank of w in bs(v)"

    def grid(self, question: Question) -> Grid:
        """A post-norm's scale, which is positive, changes no rank, and `m` is what enters the projection."""
        return replace(question.grid, scale=torch.ones_like(question.grid.scale))

    def coarse(self, question: Question) -> RankBounds:
        """From the target's rank among some of the tokens."""
        return RankBounds(question, COARSE_TOKENS, weighted=True)

    def fine(self, question: Question) -> RankBounds:
        """The same with more tokens."""
        return RankBounds(question, FINE_TOKENS, weighted=True)

    def scorer(self, question: Question) -> RankScores:
        """From the target's rank among all tokens."""
        return RankScores(question, weighted=True)
