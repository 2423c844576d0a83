"""Bounds of every part's score without projecting it to the vocabulary (docs/method.md#bound).

With p the prediction of the base state and b the part's before-softmax values,
`Imp = b_w - log sum_k p_k exp b_k`. The K likeliest tokens of p are summed exactly; `tails` bounds the sum
over the others from both sides: its lower bound gives the upper bound of the score, its upper bound a lower
bound, which the search for suppressing neurons needs. Under a soft-cap b stands for the changes of logits.

Of several answers b_w is the rise of the log of their total weight, exact for any number. Log-odds need no
normalisation, so their bounds are the scores up to rounding. Scores and bounds are float32; `Rounding` bounds
their distance from exact arithmetic (docs/search.md#rounding).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.attribution.geometry import Geometry, Rounding, unit
from mnemoscope.attribution.grids import Grid, by_layer
from mnemoscope.attribution.scores import log_sum_exp
from mnemoscope.attribution.tails import MEAN_ROWS, WIDER, Tail
from mnemoscope.model.objective import Focus, Group
from mnemoscope.model.readout import FrozenReadout, Predicted

# Share of the budget that bounds kept for another objective may take.
KEPT_SHARE = 1 / 8

# Some columns of a grid: flat indices `[n, n_coefficients]`, layers and columns `[n]`, coefficients.
Block = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Bounder(ABC):
    """Bounds of the parts of one prediction.

    Attributes:
        readout: the frozen readout of the tokens that the objective depends on.
        answers: the objective's answers.
        rounding: of scores and bounds.
        budget: bytes that temporary tensors may take.
    """

    readout: FrozenReadout
    answers: Group
    rounding: Rounding
    budget: int

    def errors(self, grid: Grid, index: Tensor) -> Tensor:
        """Bound rounding errors of exact scores, by ascending flat indices, `[n] -> [n]`, nats."""
        layer, column, factors = grid.gather(index)
        return self.rounding.of_scores(factors.abs() * self._norms(grid, layer, column), grid.base[layer])

    def _norms(self, grid: Grid, layer: Tensor, column: Tensor) -> Tensor:
        """Compute norms of columns behind the frozen final norm, sorted by layer, `[n] -> [n]`."""
        return self.readout.fold(grid.gather_columns(layer, column)).norm(dim=-1)

    def all(self, grid: Grid) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield flat indices, lower and upper bounds of every part that takes part, some columns at a time.

        Yields:
            Three `[n, n_coefficients]` tensors, in ascending order of the index; bounds in nats.
        """
        for index, layer, column, factors in self._blocks(grid):
            yield index, *self._bounds(grid, layer, column, factors)

    def chosen(self, grid: Grid, index: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the parts with these flat indices, ascending, from below and above, `[n]` each."""
        lower, upper = [], []
        for some in index.split(self._columns_at_once(1)):
            layer, column, factors = grid.gather(some)
            low, high = self._bounds(grid, layer, column, factors[:, None])
            lower.append(low[:, 0])
            upper.append(high[:, 0])
        return torch.cat(lower), torch.cat(upper)

    def _blocks(self, grid: Grid) -> Iterator[Block]:
        if not len(grid.present):
            return
        for columns in grid.present.split(self._columns_at_once(grid.n_coefficients)):
            layer, column = grid.split(columns)
            factors = grid.gather_values(layer, column) * grid.scale[layer, None]
            yield grid.parts(columns), layer, column, factors

    def _columns_at_once(self, n_coefficients: int) -> int:
        """Return how many columns keep the largest temporary tensors within the budget."""
        return max(1, self.budget // (4 * 4 * self._n_values * n_coefficients))

    @property
    @abstractmethod
    def _n_values(self) -> int:
        """Numbers about a part that are held at once, for the budget."""

    @abstractmethod
    def _bounds(self, grid: Grid, layer: Tensor, column: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Bound parts `factors[n, m] * columns[n]`, sorted by layer, `[n, m]` each."""

    def _products(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Compute the values of vectors for rows of vocabulary directions, `[n_vectors, n_rows]`.

        The fewer of the two sides goes through the frozen norm.
        """
        if len(vectors) < len(rows):
            return self.readout.fold(vectors) @ rows.T
        # In this order the weights are read once, as they lie in memory.
        return (self.readout.pull_back(rows) @ vectors.T).T

    def _rows(self, tokens: Tensor) -> Tensor:
        """Return the directions of some tokens, `[n, d_model]` float32."""
        return self.readout.unembedding.index_select(0, tokens).float()


@dataclass(frozen=True)
class LogProbabilityBounder(Bounder):
    """Bounds of changes of log probability: the rise of the answers less the log-sum over the vocabulary.

    Attributes:
        geometry: of the model.
        tail: split of each base state's prediction, with the log-sums of grids that were bounded before.
    """

    geometry: Geometry
    tail: Tail

    @property
    def _n_values(self) -> int:
        n_values = self.tail.tokens.shape[1] + len(self.answers.tokens)
        # Under a soft-cap the changes of logits take as much room again.
        return n_values if self.tail.slopes is None else 2 * n_values

    def all(self, grid: Grid) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield indices and bounds as `Bounder.all`, and keep the log-sums, which depend on no answer."""
        if grid in self.tail.sums:
            yield from self._all_from_sums(grid, *self.tail.sums[grid])
            return
        collected = []
        keep = 2 * 4 * len(grid.present) * grid.n_coefficients <= KEPT_SHARE * self.budget
        for index, layer, column, factors in self._blocks(grid):
            rise, below, above = self._rise_and_sums(grid, layer, column, factors)
            if keep:
                collected.append((below, above))
            yield index, rise - above, rise - below
        if collected:
            below, above = map(torch.cat, zip(*collected, strict=True))
            self.tail.sums[grid] = below, above

    def _all_from_sums(
        self, grid: Grid, below: Tensor, above: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        start, rows = 0, self._rows(self.answers.tokens)
        for index, layer, column, factors in self._blocks(grid):
            columns = _by_layer(grid, layer, column, factors)
            values = [self._products(vectors, rows) for _, _, vectors in columns]
            rise = self.answers.rise(
                factors[..., None] * torch.cat(values)[:, None], grid.base[layer][:, None]
            )
            block = slice(start, start + len(index))
            yield index, rise - above[block], rise - below[block]
            start += len(index)

    def _bounds(self, grid: Grid, layer: Tensor, column: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        rise, below, above = self._rise_and_sums(grid, layer, column, factors)
        return rise - above, rise - below

    def _rise_and_sums(
        self, grid: Grid, layer: Tensor, column: Tensor, factors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rise of the answers, and a lower and an upper bound of the log-sum, `[n, m]` each."""
        values, norms, squares = [], [], []
        for here, some, vectors in _by_layer(grid, layer, column, factors):
            values.append(self._values(vectors, int(grid.base[here])))
            if grid.weights is None:
                measured = self.geometry.measure(vectors)
            else:
                measured = (each[column[some]] for each in self.geometry.measure_weights(grid.weights[here]))
            norm, square = measured
            norms.append(norm)
            squares.append(square)
        state = grid.base[layer]
        return self._inequalities(torch.cat(values), torch.cat(norms), torch.cat(squares), factors, state)

    def _norms(self, grid: Grid, layer: Tensor, column: Tensor) -> Tensor:
        """Return the norms that were measured of weights."""
        if grid.weights is None:
            return super()._norms(grid, layer, column)
        kept = [
            self.geometry.measure_weights(grid.weights[here])[0][column[some]]
            for here, some in by_layer(layer)
        ]
        return torch.cat(kept) * self.readout.scale

    def _values(self, vectors: Tensor, state: int) -> Tensor:
        """Compute values of columns for the top tokens, the answers, the tail's mean and its offset from it.

        Under a soft-cap the tail's mean by slope is the last.
        """
        mean = self.tail.mean[state]
        tokens = torch.cat([self.tail.tokens[state], self.answers.tokens])
        others = [mean, self.geometry.mean - mean]
        if self.tail.slopes is not None:
            others.append(self.tail.slopes.mean[state])
        return self._products(vectors, torch.cat([self._rows(tokens), torch.stack(others)]))

    def _inequalities(
        self, values: Tensor, norms: Tensor, squares: Tensor, factors: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        n_top, n_answers = self.tail.tokens.shape[1], len(self.answers.tokens)
        top, answers = values[:, None, :n_top], values[:, None, n_top : n_top + n_answers]
        mean, offset, *by_slope = values[:, n_top + n_answers :].T[..., None]
        slopes, log_p = self.tail.slopes, self.tail.log_p[state, None]

        def fill() -> Tensor:
            if slopes is None:
                return torch.addcmul(log_p, factors[..., None], top)
            return slopes.top.change(factors[..., None] * top, state[:, None]).add_(log_p)

        sums = log_sum_exp(fill)
        norms = factors.abs() * (norms * self.readout.scale)[:, None]
        to_tail = (self.geometry.mean - self.tail.mean).norm(dim=-1)
        reach = self.geometry.radius + to_tail + 2 * unit(MEAN_ROWS) * self.geometry.longest
        # The root mean square of all deviations, and by how much rounding may have made it too small.
        root = (squares[:, None] * self.readout.scale**2 + self.geometry.n_vocabulary * offset**2).sqrt()
        error = self.geometry.n_vocabulary**0.5 * self.rounding.of_means(norms)
        below, above = self.tail.log_sums(
            state=state,
            mean=factors * mean,
            mean_by_slope=factors * by_slope[0] if by_slope else None,
            squares=WIDER * (factors.abs() * root + error) ** 2,
            radius=norms * reach[state, None],
        )
        if n_top == self.geometry.n_vocabulary:
            above = below
        rise = self.answers.rise(factors[..., None] * answers, state[:, None])
        slack = self.rounding.of_bounds(norms, state[:, None])
        return rise, torch.logaddexp(sums, below) - slack, torch.logaddexp(sums, above) + slack


@dataclass(frozen=True)
class LogOddsBounder(Bounder):
    """Changes of log-odds up to rounding, without the rest of the vocabulary.

    Attributes:
        against: the tokens that the answers are compared with.
    """

    against: Group

    @property
    def _n_values(self) -> int:
        return len(self.answers.tokens) + len(self.against.tokens)

    def _bounds(self, grid: Grid, layer: Tensor, column: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows(torch.cat([self.answers.tokens, self.against.tokens]))
        values, norms = [], []
        for _, _, vectors in _by_layer(grid, layer, column, factors):
            values.append(self._products(vectors, rows))
            norms.append(self.readout.fold(vectors).norm(dim=-1))
        changes = factors[..., None] * torch.cat(values)[:, None]
        answers, against = changes.tensor_split([len(self.answers.tokens)], dim=-1)
        state = grid.base[layer][:, None]
        score = self.answers.rise(answers, state) - self.against.rise(against, state)
        slack = self.rounding.of_scores(factors.abs() * torch.cat(norms)[:, None], state)
        return score - slack, score + slack


def bounder(
    focus: Focus,
    predicted: Predicted,
    tail: Callable[[], Tail],
    geometry: Callable[[], Geometry],
    budget: int,
) -> Bounder:
    """Return bounds of an objective's changes.

    Args:
        focus: the objective.
        predicted: prediction of the tokens in focus from each base state.
        tail: splits each state's prediction; called if the bounds need it.
        geometry: returns the model's; called if the bounds need it.
        budget: bytes that temporary tensors may take.
    """
    readout, objective = focus.readout, focus.objective
    answers = Group.of(objective.answers, predicted)
    d_model = readout.unembedding.shape[1]
    if objective.against is not None:
        longest = readout.unembedding.norm(dim=-1).max()
        rounding = Rounding(d_model, longest, predicted.rounding, readout.soft_cap)
        return LogOddsBounder(readout, answers, rounding, budget, Group.of(objective.against, predicted))
    measured = geometry()
    rounding = Rounding(d_model, measured.longest, predicted.rounding, readout.soft_cap)
    return LogProbabilityBounder(readout, answers, rounding, budget, measured, tail())


def _by_layer(
    grid: Grid, layer: Tensor, column: Tensor, factors: Tensor
) -> Iterator[tuple[int, slice, Tensor]]:
    """Yield each layer with its slice of some columns, sorted by layer, and these columns, `[n, d_model]`.

    All columns of a layer in order are not gathered: with a factor for each of their coefficients, columns
    are there once, ascending.
    """
    for here, some in by_layer(layer):
        is_whole = factors.shape[1] == grid.n_coefficients and some.stop - some.start == grid.n_columns
        yield here, some, grid.columns(here, None if is_whole else column[some])
