"""Read vectors of the residual stream out as before-softmax values, with the final norm frozen.

Scores are differences of log probabilities, often far smaller than the logits themselves. Base states are
therefore projected in float64, and logits are normalised by sums that are accumulated in float64:
`torch.log_softmax` of float32 is off by 1e-5 nats at 50,000 tokens and by 3e-5 at 260,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from mnemoscope.model.tolerances import mean_error
from mnemoscope.model.weights import read_parameter

EPSILON_NAMES = ("eps", "variance_epsilon", "epsilon", "norm_eps")
# Tried where a module does not say what it adds to the mean square.
USUAL_EPSILONS = (1e-5, 1e-6, 1e-8, torch.finfo(torch.float32).eps, 0.0)
# Largest relative error of one float32 operation.
UNIT = 2.0**-24
# Numbers of the unembedding that are widened at a time, so that they stay in the processor's cache.
WIDENED = 2**18
# Rows of a half-precision matrix that are widened at a time.
_CHUNK = 8192


LEAST_DENOMINATOR = 0.5


def capped(values: Tensor, cap: float | None) -> Tensor:
    """Apply the soft-cap to values of any shape; None leaves them as they are."""
    return values if cap is None else (values / cap).tanh() * cap


def capped_(values: Tensor, cap: float | None) -> Tensor:
    """Apply the soft-cap in place."""
    return values if cap is None else values.div_(cap).tanh_().mul_(cap)


@dataclass(frozen=True, eq=False)
class CappedLogits:
    """Logits of states before the soft-cap, which determine the change by added values.

    Attributes:
        cap: c.
        before: values that the cap is given, `[n_states, n]`.
    """

    cap: float
    before: Tensor

    @property
    def slopes(self) -> Tensor:
        """Derivative of the cap at each value, `1 - tanh(z / c)^2`, `[n_states, n]`."""
        tanh = (self.before / self.cap).tanh()
        return 1 - tanh * tanh

    def change(self, added: Tensor, state: Tensor | int) -> Tensor:
        """Compute the change of capped values, accurate relative to the added values however small.

        By `tanh(a + b) - tanh(a) = tanh(b) (1 - tanh(a)^2) / (1 + tanh(a) tanh(b))`; where the denominator
        nears 0 the difference is large, and taken as it stands.

        Args:
            added: to the values before the cap, `[..., n]`.
            state: which state each is added to, `[...]` or broadcast to it.
        """
        before = self.before[state]
        old, new = (before / self.cap).tanh(), (added / self.cap).tanh()
        denominator = old * new + 1
        found = new.mul_((1 - old * old) * self.cap).div_(denominator)
        is_large = denominator < LEAST_DENOMINATOR
        if not is_large.any():
            return found
        return torch.where(is_large, capped(before + added, self.cap) - capped(before, self.cap), found)


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm of the residual stream as a formula: RMSNorm or LayerNorm.

    Attributes:
        kind: `"rms"` divides by the root mean square, `"layer"` centres first.
        weight: gamma, `[d_model]` float32 (with the 1 added where a family stores gamma - 1).
        bias: beta, `[d_model]` float32, or None.
        epsilon: what is added to the mean square.
        offset: what was added to the weight that the module stores.
    """

    kind: Literal["rms", "layer"]
    weight: Tensor
    bias: Tensor | None
    epsilon: float
    offset: float = 0.0

    def centre(self, vectors: Tensor) -> Tensor:
        """Subtract each vector's mean (LayerNorm); RMSNorm leaves `[..., d_model]` as it is."""
        if self.kind == "rms":
            return vectors
        return vectors - vectors.mean(-1, keepdim=True)

    def scale(self, states: Tensor) -> Tensor:
        """Compute the scale `1 / sqrt(mean square + epsilon)` of each state, `[..., d_model] -> [...]`."""
        return self.centre(states).pow(2).mean(-1).add(self.epsilon).rsqrt()

    def __call__(self, states: Tensor) -> Tensor:
        """Apply the norm, `[..., d_model] -> [..., d_model]`, in float32."""
        return self.frozen(states, self.scale(states))

    def frozen(self, states: Tensor, scale: Tensor) -> Tensor:
        """Apply the norm with scales `[...]` of other states, `[..., d_model] -> [..., d_model]`, float32."""
        normed = self.centre(states) * scale.unsqueeze(-1) * self.weight
        return normed if self.bias is None else normed + self.bias

    @staticmethod
    def recognise(module: nn.Module, before: Tensor, after: Tensor) -> tuple[Norm, float]:
        """Find the norm that turns `before` into `after`, both `[n, d_model]`, and its mean error.

        A module's class says little (RMSNorm has thirty names, some store gamma - 1, some have no weight,
        some do not say their epsilon), so each formula is tried on what the module was seen to do and
        the closest one is kept.
        """
        stored, bias = read_parameter(module, "weight"), read_parameter(module, "bias")
        weighted = stored is not None
        weight = (stored if weighted else before.new_ones(before.shape[-1])).to(before.device).float()
        beta = None if bias is None else bias.to(before.device).float()
        named = [getattr(module, name, None) for name in EPSILON_NAMES]
        epsilons = [float(epsilon) for epsilon in named if epsilon is not None][:1] or USUAL_EPSILONS
        candidates = [
            Norm(kind, weight + offset, beta, epsilon, offset)
            for kind in ("rms", "layer")
            for offset in ((0.0, 1.0) if weighted else (0.0,))
            for epsilon in epsilons
        ]
        errors = [mean_error(norm(before.float()), after.float()) for norm in candidates]
        best = min(range(len(errors)), key=errors.__getitem__)
        return candidates[best], errors[best]


@dataclass(frozen=True, eq=False)
class Readout:
    """Readout of a model: the final norm and the head.

    Attributes:
        norm: the final norm.
        unembedding: `E`, `[n_vocabulary, d_model]`, the model's own tensor in its own type.
        bias: the head's bias, `[n_vocabulary]` float32, or None.
        logit_scale: what the head's outputs are multiplied with before the softmax.
        soft_cap: c where logits are `c tanh(z / c)` of the scaled outputs z; None where they are z.
    """

    norm: Norm
    unembedding: Tensor
    bias: Tensor | None
    logit_scale: float = 1.0
    soft_cap: float | None = None

    def uncapped_logits(self, states: Tensor) -> Tensor:
        """Compute the head's outputs times the logit scale, `[n, d_model] -> [n, n_vocabulary]` float32.

        Each state goes through the norm with its own scale, as in the model; gradients flow.
        """
        outputs = project(self.norm(states.float()), self.unembedding)
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs * self.logit_scale

    def logits(self, states: Tensor) -> Tensor:
        """Compute the model's logits, `[n, d_model] -> [n, n_vocabulary]` float32; gradients flow."""
        return capped(self.uncapped_logits(states), self.soft_cap)

    def log_probabilities(self, states: Tensor) -> Tensor:
        """Compute log probabilities of the next token, `[n, d_model] -> [n, n_vocabulary]` float32.

        Each state goes through the norm with its own scale, as in the model; gradients flow.
        """
        return log_softmax(self.logits(states))

    def freeze(self, final_state: Tensor, norm_bias: bool = True) -> FrozenReadout:
        """Fix the norm's scale to that of the final state h, `[d_model]`.

        Args:
            final_state: the state the model itself reads out.
            norm_bias: False drops the norm's beta from the constant, as the authors' GPT-2
                notebook does; for reproduction only, the logits are then not the model's.
        """
        beta = self.norm.bias if norm_bias else None
        constant = torch.zeros(len(self.unembedding), device=self.unembedding.device)
        if beta is not None:
            constant = constant + project(beta[None], self.unembedding)[0]
        if self.bias is not None:
            constant = constant + self.bias
        scale = self.norm.scale(widened(final_state)) * self.logit_scale
        return FrozenReadout(self.norm, self.unembedding, constant * self.logit_scale, scale, self.soft_cap)


@dataclass(frozen=True, eq=False)
class FrozenReadout:
    """Linear map `bs` of docs/method.md#readout with the constant of a state.

    Attributes:
        norm: the final norm, whose scale is no longer computed.
        unembedding: `E`, `[n_vocabulary, d_model]`.
        constant: `beta @ E.T + head bias`, times the logit scale, `[n_vocabulary]`.
        scale: the frozen factor of the norm, times the logit scale; a float64 scalar.
        soft_cap: c where logits are `c tanh(z / c)` of `z = bs(x) + constant`; None where they are z.
    """

    norm: Norm
    unembedding: Tensor
    constant: Tensor
    scale: Tensor
    soft_cap: float | None = None

    def fold(self, vectors: Tensor) -> Tensor:
        """Apply the frozen norm to vectors `[..., d_model]`; `project` of it is `bs`."""
        return self.norm.centre(vectors) * (self.norm.weight * self.scale)

    def pull_back(self, directions: Tensor) -> Tensor:
        """Apply the adjoint of `fold`: `<fold(v), x> = <v, pull_back(x)>` for `[..., d_model]`.

        One small matrix of vocabulary directions is pulled back instead of folding every neuron.
        """
        return self.norm.centre(directions * (self.norm.weight * self.scale))

    def project(self, folded: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute before-softmax values of folded vectors, `[n, d_model] -> [n, n_vocabulary]`."""
        return project(folded, self.unembedding, out)

    def uncapped_logits(self, states: Tensor) -> Tensor:
        """Compute `bs(x) + constant` of states, summed in float64, `[n, d_model] -> [n, n_vocabulary]`."""
        folded = self.norm.centre(widened(states)) * (widened(self.norm.weight) * self.scale)
        return project_widened(folded, self.unembedding).add_(self.constant)

    def log_probabilities(self, states: Tensor) -> Tensor:
        """Compute log probabilities after each state, `[n, d_model] -> [n, n_vocabulary]`."""
        return self.predict(states).log_probabilities

    def predict(self, states: Tensor) -> Predicted:
        """Read base states `[n, d_model]` out, with what changes of their logits need."""
        before = self.uncapped_logits(states)
        # Rounded when they are stored, when the logarithm of their sum is subtracted, and by that logarithm.
        rounding = 4 * UNIT * torch.maximum(before.amax(-1), -before.amin(-1))
        if widest(states.device) == torch.float32:
            rounding += self._float32_error(states)
        if self.soft_cap is None:
            return Predicted(log_softmax_(before), None, rounding)
        return Predicted(
            log_softmax(capped(before, self.soft_cap)), CappedLogits(self.soft_cap, before), rounding
        )

    def _float32_error(self, states: Tensor) -> Tensor:
        """Bound what float32 does to projected states where there is no float64, `[n, d_model] -> [n]`."""
        longest = torch.stack(
            [part.float().norm(dim=-1).max() for part in self.unembedding.split(8192)]
        ).max()
        unit = (states.shape[-1] ** 0.5 + 8) * UNIT
        return 2 * unit * longest * self.fold(states).norm(dim=-1)


def log_probabilities_of_each(readouts: Sequence[FrozenReadout], states: Sequence[Tensor]) -> Tensor:
    """Compute log probabilities of states `[d_model]`, each by its own readout, `[n, n_vocabulary]`.

    One product reads the weights once for all.
    """
    folded = torch.stack([readout.fold(state) for readout, state in zip(readouts, states, strict=True)])
    logits = readouts[0].project(folded)
    for row, readout in enumerate(readouts):
        logits[row] += readout.constant
    return log_softmax_(capped_(logits, readouts[0].soft_cap))


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of base states, with what changes of their logits need.

    Attributes:
        log_probabilities: `[n_states, n_vocabulary]`, natural logarithms.
        logits: where they stand before the soft-cap; None without one, where a logit changes by what is
            added to its before-softmax value.
        rounding: bound of the rounding error of each state's log probabilities, `[n_states]`, nats.
    """

    log_probabilities: Tensor
    logits: CappedLogits | None
    rounding: Tensor

    @cached_property
    def log_total(self) -> Tensor:
        """Log of each state's total probability as stored, near 0, `[n_states]`, nats."""
        return log_sum(self.log_probabilities).float()

    def alike(self) -> Predicted:
        """Predict every token alike: one state whose before-softmax values are all 0."""
        zeros = torch.zeros_like(self.log_probabilities[:1])
        logits = None if self.logits is None else CappedLogits(self.logits.cap, zeros)
        return Predicted(log_softmax(zeros), logits, torch.zeros_like(self.rounding[:1]))


def log_sum(exponents: Tensor) -> Tensor:
    """Compute `log sum exp` over the last axis, summed in float64, `[..., n] -> [...]`; gradients flow."""
    largest = exponents.detach().amax(-1, keepdim=True)
    # In place: fresh memory of this size costs as much time as the arithmetic.
    sums = (exponents - largest).exp_().sum(-1, dtype=widest(exponents.device))
    return sums.log() + largest[..., 0]


def log_softmax(logits: Tensor) -> Tensor:
    """Normalise float32 logits over the last axis to float32 accuracy; gradients flow."""
    high, low = _in_two(log_sum(logits))
    return logits - high - low


def log_softmax_(logits: Tensor) -> Tensor:
    """Normalise float32 logits in place; see `log_softmax`."""
    high, low = _in_two(log_sum(logits))
    return logits.sub_(high).sub_(low)


def _in_two(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Split float64 numbers into float32 ones and what they leave, `[...] -> [..., 1]` twice."""
    high = logs.float()
    return high.unsqueeze(-1), (logs - high).float().unsqueeze(-1)


def widest(device: torch.device) -> torch.dtype:
    """Choose the widest float type of a device: float64, but float32 on Metal, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def widened(values: Tensor) -> Tensor:
    """Convert to the widest float type of the device."""
    return values.to(widest(values.device))


def project_widened(vectors: Tensor, matrix: Tensor) -> Tensor:
    """Compute `vectors @ matrix.T` of widened vectors, rounded to float32 at the end, `[n, n_rows]`."""
    chunk = max(1, WIDENED // matrix.shape[1])
    out = torch.empty(len(vectors), len(matrix), device=matrix.device)
    room = torch.empty(min(chunk, len(matrix)), matrix.shape[1], dtype=vectors.dtype, device=matrix.device)
    for columns, part in zip(out.split(chunk, dim=1), matrix.split(chunk), strict=True):
        columns.copy_(vectors @ room[: len(part)].copy_(part).T)
    return out


def project(vectors: Tensor, matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute `vectors @ matrix.T` in float32, widening a half-precision matrix some rows at a time."""
    if matrix.dtype == torch.float32:
        return torch.mm(vectors, matrix.T, out=out)
    if out is None:
        return torch.cat([vectors @ part.float().T for part in matrix.split(_CHUNK)], dim=1)
    for columns, part in zip(out.split(_CHUNK, dim=1), matrix.split(_CHUNK), strict=True):
        columns.copy_(vectors @ part.float().T)
    return out
