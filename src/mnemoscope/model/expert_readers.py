"""What the neurons of a mixture of experts read with: rows of all experts, the shared one's behind them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.model.experts import Experts
from mnemoscope.model.matrix import Rows


@dataclass(frozen=True)
class ExpertRows(Rows):
    """Rows of all routed experts by one path, `expert * d_expert + n` for neuron n.

    Attributes:
        experts: whose.
        is_gate: whether they are the gate's, or the up path's.
    """

    experts: Experts
    is_gate: bool

    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """What neurons read, float32 `[n, d_model]`."""
        rows = self.experts.read_rows
        expert, place = self._places(self._all() if outputs is None else outputs.to(rows.device))
        return rows[expert, place].detach().float()

    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """What is added to what neurons read, float32 `[n_experts * d_expert]`, or None."""
        if self.experts.up_bias is None:
            return None
        expert, place = self._places(self._all())
        return self.experts.up_bias[expert, place].detach().float()

    def _all(self) -> Tensor:
        n_routed = self.experts.n_experts * self.experts.d_expert
        return torch.arange(n_routed, device=self.experts.read_rows.device)

    def _places(self, neurons: Tensor) -> tuple[Tensor, Tensor]:
        """Expert, and place among what it reads, gate and up stored together."""
        d_expert = self.experts.d_expert
        expert, neuron = neurons.div(d_expert, rounding_mode="floor"), neurons % d_expert
        if not self.experts.is_concatenated:
            return expert, 2 * neuron + (0 if self.is_gate else 1)
        return expert, neuron + (0 if self.is_gate else d_expert)


@dataclass(frozen=True, eq=False)
class JointRows(Rows):
    """Rows of routed experts and then of a shared one.

    Attributes:
        routed, shared: of each.
        n_routed: how many belong to routed experts.
        of_shared: which of the shared module's outputs belong to its neurons, `[n_shared]`.
    """

    routed: Rows
    shared: Rows
    n_routed: int
    of_shared: Tensor

    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """What neurons read, float32 `[n, d_model]`."""
        if outputs is None:
            return torch.cat([self.routed.rows(), self.shared.rows(self.of_shared)])
        inside = outputs < self.n_routed
        routed = self.routed.rows(outputs[inside])
        shared = self.shared.rows(self.of_shared[outputs[~inside] - self.n_routed])
        found = torch.empty(len(outputs), max(routed.shape[1], shared.shape[1]), device=outputs.device)
        found[inside], found[~inside] = routed.to(found.device), shared.to(found.device)
        return found

    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """What is added to what neurons read, float32 `[n_routed + n_shared]`, or None."""
        routed, shared = self.routed.constant(), self.shared.constant()
        if routed is None and shared is None:
            return None
        found = torch.zeros(self.n_routed + len(self.of_shared), device=self.of_shared.device)
        if routed is not None:
            found[: self.n_routed] = routed
        if shared is not None:
            found[self.n_routed :] = shared.to(found.device)[self.of_shared]
        return found


@dataclass(frozen=True)
class ExpertActivation:
    """What neurons of gated experts become of what they read.

    Attributes:
        experts: whose.
    """

    experts: Experts

    def __call__(self, up: Tensor, gate: Tensor | None) -> Tensor:
        """What enters the down projection but for the router weight, `[..., n] -> [..., n]`."""
        if gate is None:
            raise TypeError("experts with a gate read by two paths")
        if self.experts.is_concatenated:
            read = torch.cat([gate, up], dim=-1)
        else:
            read = torch.stack([gate, up], dim=-1).flatten(-2)
        with torch.no_grad():
            return self.experts.activate(read)
