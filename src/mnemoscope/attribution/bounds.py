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

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnemoscope.attribution.parts import Grid, by_layer
from mnemoscope.model.anatomy import Projection
from mnemoscope.model.readout import FrozenReadout, Readout

# Float32 rounding of a dot product, as a share of the two vectors' norms, and of a logarithm in nats.
ROUNDING = 2e-6


class Geometry:
    """What the bounds need to know of a model's weights; made once per model, filled as asked for."""

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

    def forget(self) -> None:
        """Drop what was measured, because weights changed."""
        self._measured.clear()


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
    """Split each prediction `[n_states, n_vocabulary]` into its `n_top` likeliest tokens and the rest."""
    n_top = min(n_top, log_probabilities.shape[1])
    log_p, tokens = log_probabilities.topk(n_top, dim=-1)
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
    _directions: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def layer(self, grid: Grid, layer: int) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of every part of a layer, both `[n_columns, n_coefficients]`, nats."""
        columns = grid.columns(layer, None)
        measures = self._measures(grid, layer, columns, None)
        return self._bounds(columns, measures, grid.coefficients(layer), int(grid.base[layer]))

    def chosen(self, grid: Grid, index: Tensor) -> tuple[Tensor, Tensor]:
        """The same for the parts with these flat indices, ascending, `[n]` each."""
        layer, column, coefficient = grid.locate(index)
        lower, upper = [], []
        for here, some in by_layer(layer):
            columns = grid.columns(here, column[some])
            measures = self._measures(grid, here, columns, column[some])
            factors = grid.coefficients(here)[column[some], coefficient[some]]
            low, high = self._bounds(columns, measures, factors[:, None], int(grid.base[here]))
            lower.append(low[:, 0])
            upper.append(high[:, 0])
        return torch.cat(lower), torch.cat(upper)

    def _measures(
        self, grid: Grid, layer: int, columns: Tensor, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Norms and squares of columns; those of weights are kept from prompt to prompt."""
        if grid.weights is None:
            return self.geometry.measure(columns)
        norms, squares = self.geometry.measure_weights(grid.weights[layer])
        return (norms, squares) if index is None else (norms[index], squares[index])

    @property
    def _has_tail(self) -> bool:
        return self.tail.tokens.shape[1] < self.geometry.n_vocabulary

    def _bounds(
        self, columns: Tensor, measures: tuple[Tensor, Tensor], factors: Tensor, state: int
    ) -> tuple[Tensor, Tensor]:
        """Bounds of `factors[n, m] * columns[n, d_model]` added to a base state, `[n, m]` each."""
        values = columns @ self._pulled_back(state).T
        per_row = 4 * factors.shape[1] * values.shape[1] * 4
        rows = max(1, self.budget // per_row)
        norms, squares = measures
        blocks = [
            self._bound_block(*block, state)
            for block in zip(
                values.split(rows),
                norms.split(rows),
                squares.split(rows),
                factors.split(rows),
                strict=True,
            )
        ]
        lower, upper = zip(*blocks, strict=True)
        return torch.cat(lower), torch.cat(upper)

    def _pulled_back(self, state: int) -> Tensor:
        """What columns are multiplied with: top tokens, tail mean, target and the mean's offset."""
        if state not in self._directions:
            mean = self.tail.mean[state]
            tokens = self.readout.rows(self.tail.tokens[state])
            target = self.readout.unembedding[self.target].float()
            stacked = torch.cat([tokens, torch.stack([mean, target, self.geometry.mean - mean])])
            self._directions[state] = self.readout.pull_back(stacked)
        return self._directions[state]

    def _bound_block(
        self, values: Tensor, norms: Tensor, squares: Tensor, factors: Tensor, state: int
    ) -> tuple[Tensor, Tensor]:
        top, (mean, target, offset) = values[:, :-3], values[:, -3:].T
        log_p, log_mass = self.tail.log_p[state], self.tail.log_mass[state]
        sums = torch.logsumexp(log_p + factors[..., None] * top[:, None], dim=-1)
        tail = log_mass + factors * mean[:, None]
        scale = self.readout.scale
        size = factors.abs() * (norms * scale)[:, None]
        radius = size * (self.geometry.radius + (self.geometry.mean - self.tail.mean[state]).norm())
        spread = squares * scale**2 + self.geometry.n_vocabulary * offset**2
        share = self.tail.largest[state] / log_mass.exp().clamp_min(1e-37)
        variance = factors**2 * (1.001 * spread * share)[:, None]
        growth = _growth(variance, radius) if self._has_tail else torch.zeros_like(radius)
        above = tail + torch.log1p(growth)
        direct = factors * target[:, None]
        slack = ROUNDING * (1 + radius)
        lower = direct - torch.logaddexp(sums, above) - slack
        upper = direct - torch.logaddexp(sums, tail) + slack
        return lower, upper


def _growth(variance: Tensor, radius: Tensor) -> Tensor:
    """`s2 (exp r - 1 - r) / r^2`; infinite where the exponential nears the end of float32."""
    series = 0.5 + radius / 6 + radius**2 / 20
    exact = (torch.expm1(radius) - radius) / radius.clamp_min(1e-3) ** 2
    factor = torch.where(radius < 0.05, series, exact)
    return torch.where(radius < 60, variance * factor, torch.inf)
