"""The rank of a target among the tokens that a neuron promotes, bounded and exact.

Among some of the tokens the target can stand no lower than among all: its rank there bounds the rank from
below, so that most neurons are left out without being projected to the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mnemoscope.attribution.bounds import ROUNDING
from mnemoscope.attribution.methods.base import Question
from mnemoscope.attribution.parts import Grid, by_layer
from mnemoscope.attribution.scoring import Scorer

# Tokens compared for every token that a bound of log p would sum: a rank needs more of them to be told.
MORE_TOKENS = 64


class RankBounds:
    """Bounds of `1 / rank`, or of `|m| / rank`."""

    def __init__(self, question: Question, n_tokens: int, weighted: bool) -> None:
        """Look at the tokens most like the target, which outrank it most, and at others spread evenly."""
        self.readout = question.prediction.readout
        self.weighted = weighted
        embeddings = self.readout.unembedding
        self.n_vocabulary = len(embeddings)
        token = question.one_token("a rank")
        target = embeddings[token].float()
        n_tokens = min(MORE_TOKENS * n_tokens, self.n_vocabulary)
        alike = self.readout.project(self.readout.fold(self.readout.pull_back(target)[None]))[0]
        alike[token] = -torch.inf
        spread = torch.linspace(0, self.n_vocabulary - 1, n_tokens // 2 + 1, device=alike.device).long()
        ids = torch.cat([alike.topk(max(1, n_tokens // 2)).indices, spread]).unique()
        ids = ids[ids != token]
        # The target's advantage over each of the tokens, as directions of the residual stream.
        self.advantages = self.readout.pull_back(target - embeddings[ids].float())

    def all(self, grid: Grid) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Bounds of every neuron that takes part, a layer at a time."""
        layers = grid.present.div(grid.n_columns, rounding_mode="floor")
        for _, some in by_layer(layers):
            index = grid.present[some]
            lower, upper = self.chosen(grid, index)
            yield index[:, None], lower[:, None], upper[:, None]

    def chosen(self, grid: Grid, index: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of some neurons."""
        layer, column, _ = grid.locate(index)
        found = [
            self._bounds(grid.columns(here, column[some]), grid.coefficients(here)[column[some], 0])
            for here, some in by_layer(layer)
        ]
        lower, upper = zip(*found, strict=True)
        return torch.cat(lower), torch.cat(upper)

    def _bounds(self, columns: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        above = torch.zeros(len(columns), device=columns.device)
        below = torch.zeros_like(above)
        sign = torch.where(coefficients < 0, -1.0, 1.0)[:, None]
        lengths = columns.norm(dim=-1, keepdim=True)
        for directions in self.advantages.split(1024):
            advantage = columns @ directions.T * sign
            slack = 4 * ROUNDING * lengths * directions.norm(dim=-1)
            above += (advantage < -slack).sum(-1)
            below += (advantage > slack).sum(-1)
        weight = coefficients.abs() if self.weighted else torch.ones_like(coefficients)
        highest, lowest = 1 + above, self.n_vocabulary - below
        return weight / lowest, weight / highest


class RankScores(Scorer):
    """`1 / rank`, or `|m| / rank`, from the whole vocabulary; equal values count in the target's favour."""

    def __init__(self, question: Question, weighted: bool) -> None:
        """Prepare for one prediction."""
        self.token = question.one_token("a rank")
        prediction = question.prediction
        super().__init__(
            prediction.readout, prediction.base.predicted, prediction.objective, prediction.budget
        )
        self.weighted = weighted

    def _score(self, values: Tensor, rank: Tensor, factors: Tensor, states: Tensor) -> Tensor:
        """Scores of neurons whose column is row `rank` of `values`."""
        values = values[rank]
        own = values[:, self.token, None]
        above = torch.where(factors[:, None] < 0, values < own, values > own).sum(-1)
        weight = factors.abs() if self.weighted else torch.ones_like(factors)
        return weight / (1 + above)
