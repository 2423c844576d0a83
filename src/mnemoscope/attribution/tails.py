"""Tail of a prediction beside its likeliest tokens, and bounds of its weight after a part is added.

Let P be the tail's total probability, E the mean over it, b_k what a part adds to the value of token k before
the softmax. With mean m = E[b], variance s2 and largest deviation from the mean r,

    P exp(m)  <=  P E[exp b_k]  <=  P exp(m) (1 + s2 (exp r - 1 - r) / r^2)

(Jensen's inequality; Bennett's inequality). The tail's mean is a linear function of the part. Its
variance is at most `max_tail p / P` times the sum over the whole vocabulary, a quadratic form of the
part that depends on the weights alone, and r is at most the part's norm times the largest distance of an
embedding from the tail's mean embedding.

Where logits pass a soft-cap, the value z_k of token k before it moves by b_k and its logit by d_k. With
t_k = 1 - tanh(z_k / c)^2 the slope of the cap, q = 2 / (3 sqrt 3 c) half of the largest size of its second
derivative, and R = |m| + r >= |b_k|, Taylor's theorem and slopes between 0 and 1 give

    d_k = t_k b_k + e_k,    |e_k| <= min(q b_k^2, |b_k|),    |d_k| <= |b_k| <= R

E[t b] is a linear function of the part too. With v^2 = m^2 + s2 = E[b^2] and t b = t (b - m) + m t,

    |E[d] - E[t b]|  <=  min(q v^2, v)
    sd(d)  <=  sd(t b) + sd(e)  <=  sqrt(E[t^2 (b - m)^2]) + |m| sd(t) + min(q R, 1) v

so that the same two inequalities hold for d, which is at most R - E[d] above its mean; its sum lies
between P exp(-R) and P exp(R) too. E[t^2 (b - m)^2] is at most `max_tail p t^2 / P` times the sum over
the vocabulary.

Probabilities of the tail are kept as shares of P, and P as a logarithm: a tail below the least float32 may be
most of what a large part leaves. Tokens whose share underflows still count in r and in the sum over the whole
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnemoscope.attribution.grids import Grid
from mnemoscope.model.readout import CappedLogits, Predicted, widest

TINY = torch.finfo(torch.float32).tiny
# By what sums of squares are raised, so that rounding does not make them too small.
WIDER = 1.001
# Rows of the unembedding that a mean embedding is summed of at once.
MEAN_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Slopes:
    """Slopes of a soft-cap in each base state's tail.

    Attributes:
        top: the likeliest tokens' values before the cap.
        mean: mean over the tail of embeddings times slopes, `[n_states, d_model]`.
        largest: the largest share of the tail's mass times its slope squared, `[n_states]`.
        spread: standard deviation of the slopes over the tail, `[n_states]`.
    """

    top: CappedLogits
    mean: Tensor
    largest: Tensor
    spread: Tensor


@dataclass(frozen=True, eq=False)
class Tail:
    """Each base state's likeliest tokens and what is left of its prediction.

    Attributes:
        tokens: ids of the likeliest tokens, `[n_states, n_top]`.
        log_p: their log probabilities, `[n_states, n_top]`.
        log_mass: log of the other tokens' total probability P, `[n_states]`; minus infinity without others.
        largest: the largest of the other tokens' shares of P, `[n_states]`.
        mean: the mean of their embeddings by share, `[n_states, d_model]`.
        slopes: None without a soft-cap.
        sums: kept bounds of the log-sums over the whole vocabulary after each part of a grid is added,
            `[n_present, n_coefficients]` each, nats; they depend on no answer.
    """

    tokens: Tensor
    log_p: Tensor
    log_mass: Tensor
    largest: Tensor
    mean: Tensor
    slopes: Slopes | None
    sums: dict[Grid, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def log_sums(
        self, state: Tensor, mean: Tensor, mean_by_slope: Tensor | None, squares: Tensor, radius: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Bound the log of the sum over the tail after parts are added from below and above, `[n, m]` each.

        Args:
            state: base state of each row of parts, `[n]`.
            mean: mean over the tail of what each part adds to the values, `[n, m]`.
            mean_by_slope: the same of values times the slopes of the cap; None without a cap.
            squares: at least the squared deviations from the mean, summed over the whole vocabulary.
            radius: at least the largest deviation.
        """
        log_mass = self.log_mass[state, None]
        variance = squares * self.largest[state, None]
        if self.slopes is None or mean_by_slope is None:
            middle = log_mass + mean
            return middle, self._plus(middle, torch.log1p(_growth(variance, radius)))
        most = mean.abs() + radius
        root = torch.minimum((mean**2 + variance).sqrt(), most)
        bend = 2 / (3 * 3**0.5 * self.slopes.top.cap)
        error = torch.minimum(bend * root**2, root)
        deviation = (
            (squares * self.slopes.largest[state, None]).sqrt()
            + mean.abs() * self.slopes.spread[state, None]
            + (bend * most).clamp_max(1) * root
        )
        farthest = most + torch.minimum(root, error - mean_by_slope)
        growth = torch.log1p(_growth(WIDER * torch.minimum(deviation, root) ** 2, farthest))
        below = torch.maximum(mean_by_slope - error, -most)
        above = torch.minimum(mean_by_slope + error + growth, most)
        return log_mass + below, self._plus(log_mass, above)

    @staticmethod
    def _plus(log_mass: Tensor, growth: Tensor) -> Tensor:
        """Add a growth that may be infinite to logarithms of masses that may be 0."""
        return torch.where(log_mass > -torch.inf, log_mass + growth, -torch.inf)


def split_tail(predicted: Predicted, unembedding: Tensor, n_top: int) -> Tail:
    """Split each prediction into its likeliest tokens and the rest.

    Args:
        predicted: what base states predict.
        unembedding: of the same tokens, `[n_vocabulary, d_model]`.
        n_top: how many tokens are the likeliest.
    """
    log_probabilities, log_total = predicted.log_probabilities, predicted.log_total
    log_p, tokens = log_probabilities.topk(min(n_top, log_probabilities.shape[1]), dim=-1)
    rest = log_probabilities.scatter(1, tokens, -torch.inf)
    likeliest = rest.amax(-1)
    # Where every token is among the likeliest, the tail is empty and its mass 0.
    shift = likeliest.where(likeliest > -torch.inf, 0)
    weights = rest.sub_(shift[:, None]).exp_()
    total = weights.sum(-1)
    share = weights.div_(total.clamp_min(TINY)[:, None])
    return Tail(
        tokens=tokens,
        log_p=log_p - log_total[:, None],
        log_mass=total.log() + shift - log_total,
        largest=share.amax(-1),
        mean=_weighted_sum(share, unembedding),
        slopes=None if predicted.logits is None else _slopes(predicted.logits, tokens, share, unembedding),
    )


def _slopes(logits: CappedLogits, tokens: Tensor, share: Tensor, unembedding: Tensor) -> Slopes:
    """Describe the slopes by the logits of all tokens and their shares of the tail, 0 for `tokens`."""
    slopes = logits.slopes
    mean = (share * slopes).sum(-1, keepdim=True)
    return Slopes(
        top=CappedLogits(logits.cap, logits.before.gather(1, tokens)),
        mean=_weighted_sum(share * slopes, unembedding),
        largest=(share * slopes**2).amax(-1),
        spread=(share * (slopes - mean) ** 2).sum(-1).sqrt(),
    )


def _weighted_sum(weights: Tensor, unembedding: Tensor) -> Tensor:
    """Compute `weights @ unembedding`, `[n_states, n_vocabulary] -> [n_states, d_model]` float32.

    Some rows at a time, which stay in the processor's cache; their sums are added in float64.
    """
    sums = torch.zeros(
        len(weights), unembedding.shape[1], dtype=widest(weights.device), device=weights.device
    )
    for part, rows in zip(weights.split(MEAN_ROWS, dim=1), unembedding.split(MEAN_ROWS), strict=True):
        sums += part @ rows.float()
    return sums.float()


def _growth(variance: Tensor, radius: Tensor) -> Tensor:
    """`s2 (exp r - 1 - r) / r^2`; infinite where the exponential nears the end of float32."""
    series = 0.5 + radius / 6 + radius**2 / 20
    exact = (torch.expm1(radius) - radius) / radius.clamp_min(1e-3) ** 2
    factor = torch.where(radius < 0.05, series, exact)
    return torch.where(radius < 60, variance * factor, torch.inf)
