"""The soft-cap `c tanh(z / c)` of attention scores or logits: below c in size, near 0 as they were."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_DENOMINATOR = 0.5


def capped(values: Tensor, cap: float | None) -> Tensor:
    """Values of any shape through the cap; as they are for None."""
    return values if cap is None else (values / cap).tanh() * cap


def capped_(values: Tensor, cap: float | None) -> Tensor:
    """The same in place."""
    return values if cap is None else values.div_(cap).tanh_().mul_(cap)


@dataclass(frozen=True, eq=False)
class CappedLogits:
    """Where logits of some states stand before the cap: how they answer to what is added there.

    Attributes:
        cap: c.
        before: values that the cap is given, `[n_states, n]`.
    """

    cap: float
    before: Tensor

    @property
    def slopes(self) -> Tensor:
        """Derivative of the cap where each value stands, `1 - tanh(z / c)^2`, `[n_states, n]`."""
        tanh = (self.before / self.cap).tanh()
        return 1 - tanh * tanh

    def change(self, added: Tensor, state: Tensor | int) -> Tensor:
        """How far capped values move, to the precision of what is added however little that is.

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
