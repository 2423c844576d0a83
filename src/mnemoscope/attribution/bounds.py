"""A lower and an upper bound of every part's score without projecting it to the vocabulary.

Let p be what the base state predicts, b a part's before-softmax values and w the target:
`Imp = b_w - log sum_k p_k exp b_k`. The K likeliest tokens of p are summed exactly; for the tail,
with mass P, mean value m, variance s2 and largest deviation from the mean r,

    P exp(m)  <=  sum_tail p_k exp b_k  <=  P exp(m) (1 + s2 (exp r - 1 - r) / r^2)

(Jensen's inequality; Bennett's inequality). The left side gives the upper bound of METHOD section 4,
the right side a lower bound, which the search for suppressing neurons needs. The tail's mean is a
linear function of the part. Its variance is at most `max_tail p / P` times the sum over the whole
vocabulary, a quadratic form of the part that depends on the weights alone, and r is at most the
part's norm times the largest distance of an embedding from the tail's mean embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.attribution.base import log_sum_exp_
from mnemoscope.attribution.parts import Grid, by_layer
from mnemoscope.model.anatomy import Projection
from mnemoscope.model.readout import FrozenReadout, Readout

# Float32 rounding of a dot product, as a share of the two vectors' norms, and of a logarithm in nats.
ROUNDING = 2e-6


class Geometry:
    """What the bounds need to know of a model's weights; made once per model, filled as asked for.

    The weights must not change afterwards, or the bounds would no longer hold.
    """

    def __init__(self, readout: Readout) -> None:
        self.readout = readout
        embeddings = readout.unembedding
        self.n_vocabulary, d_model = embeddings.shape
        total = torch.zeros(d_model, device=embeddings.device)
        for part in embeddings.split(8192):
            total += part.float().sum(0)
        self.mean = total / self.n_vocabulary
        self.gram = torch.zeros(d_model, d_model, device=embeddings.device)
        largest = torch.zeros((), device=embeddings.device)
        for part in embeddings.split(8192):
            centred = part.float() - self.mean
            self.gram += centred.T @ centred
            largest = torch.maximum(largest, centred.pow(2).sum(-1).max())
        self.radius = largest.sqrt()
        self._measured: dict[int, tuple[Tensor, Tensor]] = {}

    def measure(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Norm and sum of squared centred before-softmax values of `[n, d_model]` columns, at scale 1."""
        folded = self.readout.norm.centre(columns) * self.readout.norm.weight
        squares = ((folded @ self.gram) * folded).sum(-1)
        return folded.norm(dim=-1), squares.clamp_min(0)

    def measure_weights(self, projection: Projection) -> tuple[Tensor, Tensor]:
        """The same of all columns of a projection, kept for the next prompt."""
        key = id(projection.module)
        if key not in self._measured:
            self._measured[key] = self.measure(projection.columns())
        return self._measured[key]


@dataclass(frozen=True)
class Tail:
    """Each base state's likeliest tokens and what is left of its prediction.

    Attributes:
        tokens: ids of the likeliest tokens, `[n_states, n_top]`.
        log_p: their log probabilities, `[n_states, n_top]`.
        log_mass: log of the other tokens' total probability, `[n_states]`.
        largest: the largest of their probabilities, `[n_states]`.
        mean: their mean embedding, `[n_states, d_model]`.
    """

    tokens: Tensor
    log_p: Tensor
    log_mass: Tensor
    largest: Tensor
    mean: Tensor


def split_tail(log_probabilities: Tensor, unembedding: Tensor, n_top: int) -> Tail:
    """Split each prediction `[n_states, n_vocabulary]` into its likeliest tokens and the rest."""
    log_p, tokens = log_probabilities.topk(min(n_top, log_probabilities.shape[1]), dim=-1)
    rest = log_probabilities.exp().scatter_(1, tokens, 0.0)
    mass = rest.sum(-1)
    sums = torch.zeros(len(rest), unembedding.shape[1], device=rest.device)
    for part, rows in zip(rest.split(8192, dim=1), unembedding.split(8192), strict=True):
        sums += part @ rows.float()
    mean = sums / mass.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return Tail(tokens, log_p, mass.log().clamp_min(-1e4), rest.amax(-1), mean)


@dataclass(frozen=True)
class Bounder:
    """Bounds parts of one prediction.

    Attributes:
        geometry: of the model.
        readout: the frozen readout of the prediction.
        tail: how each base state's prediction was split.
        target: token id.
        budget: bytes that temporary tensors may take.
    """

    geometry: Geometry
    readout: FrozenReadout
    tail: Tail
    target: int
    budget: int

    def all(self, grid: Grid) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Flat indices, lower and upper bounds of every part, some columns at a time.

        Yields:
            Three `[n, n_coefficients]` tensors, in ascending order of the index; bounds in nats.
        """
        step = self._columns_at_once(grid.n_coefficients)
        n_columns = grid.n_layers * grid.n_columns
        for start in range(0, n_columns, step):
            columns = torch.arange(start, min(start + step, n_columns), device=grid.base.device)
            layer = columns.div(grid.n_columns, rounding_mode="floor")
            column = columns % grid.n_columns
            factors = torch.cat([grid.coefficients(i)[column[some]] for i, some in by_layer(layer)])
            index = columns[:, None] * grid.n_coefficients
            index = index + torch.arange(grid.n_coefficients, device=columns.device)
            yield index, *self._bounds(grid, layer, column, factors)

    def chosen(self, grid: Grid, index: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the parts with these flat indices, ascending, `[n]` each."""
        lower, upper = [], []
        for some in index.split(self._columns_at_once(1)):
            layer, column, coefficient = grid.locate(some)
            factors = grid.gather_coefficients(layer, column, coefficient)
            low, high = self._bounds(grid, layer, column, factors[:, None])
            lower.append(low[:, 0])
            upper.append(high[:, 0])
        return torch.cat(lower), torch.cat(upper)

    def _columns_at_once(self, n_coefficients: int) -> int:
        """How many columns keep the largest temporary tensors within the budget."""
        n_top = self.tail.tokens.shape[1]
        return max(1, self.budget // (4 * 4 * n_top * n_coefficients))

    def _bounds(self, grid: Grid, layer: Tensor, column: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of parts `factors[n, m] * columns[n]`, sorted by layer, `[n, m]` each."""
        values, norms, squares = [], [], []
        for here, some in by_layer(layer):
            vectors = grid.columns(here, _whole_or_index(column[some], grid.n_columns))
            values.append(self._values(vectors, int(grid.base[here])))
            norm, square = self._measure(grid, here, vectors, column[some])
            norms.append(norm)
            squares.append(square)
        state = grid.base[layer]
        return self._inequalities(torch.cat(values), torch.cat(norms), torch.cat(squares), factors, state)

    def _measure(self, grid: Grid, layer: int, vectors: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Norms and squares of columns; those of weights are kept from prompt to prompt."""
        if grid.weights is None:
            return self.geometry.measure(vectors)
        norms, squares = self.geometry.measure_weights(grid.weights[layer])
        return norms[index], squares[index]

    def _values(self, vectors: Tensor, state: int) -> Tensor:
        """Values of columns for the top tokens, tail mean, target and the mean's offset, `[n, n_top + 3]`.

        The fewer of the two sides goes through the frozen norm.
        """
        mean = self.tail.mean[state]
        ids = torch.cat([self.tail.tokens[state], self._target])
        rows = self.readout.unembedding.index_select(0, ids).float()
        others = torch.stack([mean, self.geometry.mean - mean])
        if len(vectors) < len(rows):
            folded = self.readout.fold(vectors)
            return torch.cat([folded @ rows.T, folded @ others.T], dim=1)
        # In this order the weights are read once, as they lie in memory.
        return (self.readout.pull_back(torch.cat([rows, others])) @ vectors.T).T

    @property
    def _target(self) -> Tensor:
        return torch.tensor([self.target], device=self.tail.tokens.device)

    def _inequalities(
        self, values: Tensor, norms: Tensor, squares: Tensor, factors: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        top, (target, mean, offset) = values[:, None, :-3], values[:, -3:].T[..., None]
        log_mass = self.tail.log_mass[state, None]
        exponents = (factors[..., None] * top).add_(self.tail.log_p[state, None])
        sums = log_sum_exp_(exponents)
        tail = log_mass + factors * mean
        scale = self.readout.scale
        reach = self.geometry.radius + (self.geometry.mean - self.tail.mean).norm(dim=-1)
        radius = factors.abs() * (norms * scale * reach[state])[:, None]
        above = tail
        if top.shape[-1] < self.geometry.n_vocabulary:
            spread = squares[:, None] * scale**2 + self.geometry.n_vocabulary * offset**2
            share = self.tail.largest[state, None] / log_mass.exp().clamp_min(1e-37)
            above = tail + torch.log1p(_growth(1.001 * factors**2 * spread * share, radius))
        direct = factors * target
        slack = ROUNDING * (1 + radius)
        lower = direct - torch.logaddexp(sums, above) - slack
        upper = direct - torch.logaddexp(sums, tail) + slack
        return lower, upper


def _whole_or_index(index: Tensor, n_columns: int) -> Tensor | None:
    """None for all columns in order, which need not be gathered."""
    whole = len(index) == n_columns and bool(index[0] == 0) and bool((index.diff() == 1).all())
    return None if whole else index


def _growth(variance: Tensor, radius: Tensor) -> Tensor:
    """`s2 (exp r - 1 - r) / r^2`; infinite where the exponential nears the end of float32."""
    series = 0.5 + radius / 6 + radius**2 / 20
    exact = (torch.expm1(radius) - radius) / radius.clamp_min(1e-3) ** 2
    factor = torch.where(radius < 0.05, series, exact)
    return torch.where(radius < 60, variance * factor, torch.inf)
