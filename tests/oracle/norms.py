"""RMSNorm and LayerNorm as formulas, as they are and frozen."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """An RMSNorm or a LayerNorm.

    Attributes:
        centred: whether the mean is subtracted (LayerNorm).
        gamma, beta: weight and bias, `[d]`.
        epsilon: added to the mean square.
    """

    centred: bool
    gamma: Tensor
    beta: Tensor
    epsilon: float

    def scale(self, state: Tensor) -> Tensor:
        """Compute 1 / root mean square, `[..., d] -> [..., 1]`."""
        return (self._centre(state).square().mean(-1, keepdim=True) + self.epsilon).rsqrt()

    def frozen(self, vectors: Tensor, scale: Tensor | float) -> Tensor:
        """Apply the linear part with a given scale, `[..., d] -> [..., d]`."""
        return self._centre(vectors) * self.gamma * scale

    def __call__(self, state: Tensor) -> Tensor:
        """Apply the norm itself."""
        return self.frozen(state, self.scale(state)) + self.beta

    def _centre(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(-1, keepdim=True) if self.centred else vectors


def norm_of(module: Any, given: Tensor, output: Tensor) -> Norm:
    """Find the formula of a norm's module, by trying each on its input and output.

    Args:
        module: the norm.
        given: its input, `[n_tokens, d]`.
        output: its output, alike.

    Raises:
        AssertionError: none fits.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    gamma = torch.ones_like(given[0]) if weight is None else weight
    beta = torch.zeros_like(given[0]) if bias is None else bias
    names = ("eps", "variance_epsilon", "norm_eps")
    epsilons = [getattr(module, name) for name in names if getattr(module, name, None) is not None]
    for centred, offset, epsilon in itertools.product((False, True), (0.0, 1.0), (*epsilons, 1e-5, 1e-6)):
        norm = Norm(centred, gamma + offset, beta, float(epsilon))
        if (norm(given) - output).abs().max() <= 1e-12 * output.abs().max().clamp_min(1):
            return norm
    raise AssertionError(f"{type(module).__name__} computes no known norm")
