"""Input projections of the neurons: rows that turn the normed stream into values and pre-activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from mnemoscope.model.experts import Experts
from mnemoscope.model.readout import Norm
from mnemoscope.model.weights import Linear

# How a neuron reads the stream; `"down"` is how the authors' Llama notebook takes it to.
Path = Literal["value", "up", "gate", "down"]
# What FFN neurons become of what they read by the up path and, if there is one, by the gate.
Activation = Callable[[Tensor, Tensor | None], Tensor]


def elementwise(function: str | nn.Module, up: Tensor, gate: Tensor | None) -> Tensor:
    """Compute down projection inputs of any shape: the activated gate times the up path, or the only path.

    Args:
        function: the activation, by its name in transformers or as the model's own module.
        up: what the up path reads.
        gate: what the gate reads; None without one.
    """
    activate = ACT2FN[function] if isinstance(function, str) else function
    with torch.no_grad():
        # An activation with weights of its own gives its outputs where they are.
        active = activate(up if gate is None else gate).to(up.device)
        return active if gate is None else active * up


@dataclass(frozen=True, eq=False)
class InputProjection:
    """Rows that read the stream: `value[n] = scale(x) * <keys[n], x> + constants[n]` for a state x.

    Attributes:
        matrix: what multiplies with the stream.
        outputs: which of its outputs belong to the neurons, in their order, `[n]`; what is read is where
            they are.
        norm: what the stream passes before; None if it is read as it is.
    """

    matrix: Rows
    outputs: Tensor
    norm: Norm | None

    def rows(self, neurons: Tensor | None = None) -> Tensor:
        """Return the rows of all (None) or of chosen neurons, `[n, d_model]` float32."""
        index = self.outputs if neurons is None else self.outputs[neurons]
        return self.matrix.rows(index).to(self.outputs.device)

    def keys(self, neurons: Tensor | None = None) -> Tensor:
        """Return subkeys, rows with the norm's weight folded in but not its scale, `[n, d_model]` float32.

        The inner product with a component of the stream, times the scale, is what it contributes: the norm's
        weight is absorbed, and for LayerNorm the mean is taken away.
        """
        rows = self.rows(neurons)
        return rows if self.norm is None else self.norm.centre(rows * self.norm.weight)

    def constants(self, neurons: Tensor) -> Tensor:
        """Return the constants of neurons, `[n]`: their bias and what they read of the norm's bias."""
        bias = self.matrix.constant()
        found = torch.zeros(len(neurons), device=self.outputs.device)
        if bias is not None:
            found = found + bias.to(found.device)[self.outputs[neurons]]
        if self.norm is not None and self.norm.bias is not None:
            found = found + self.rows(neurons) @ self.norm.bias
        return found

    def read(self, states: Tensor) -> Tensor:
        """Compute the pre-activations of all neurons at states, `[n_states, d_model] -> [n_states, n]`."""
        every = torch.arange(len(self.outputs), device=self.outputs.device)
        return self.scale(states)[:, None] * (states @ self.keys().T) + self.constants(every)

    def scale(self, states: Tensor) -> Tensor:
        """Compute the norm's frozen scale at states, `[..., d_model] -> [...]`; 1 without a norm."""
        return states.new_ones(states.shape[:-1]) if self.norm is None else self.norm.scale(states)


@dataclass(frozen=True)
class InputProjections:
    """Input projections of the neurons of one layer.

    Attributes:
        value: the attention's values, in the order of `[n_kv_heads, d_head]`; reads `resid_pre`.
        up: pre-activations of FFN neurons, or the factor beside the gate.
        gate: pre-activations of the gate; None in FFNs without one.
        activation: inputs of the down projection from pre-activations `[n]`, if not rescaled.
        rescaled: whether these are then multiplied with a number that is not theirs alone: a router weight,
            or what a norm before the down projection multiplies with.
    """

    value: InputProjection
    up: InputProjection
    gate: InputProjection | None
    activation: Activation
    rescaled: bool = False

    @property
    def ffn(self) -> dict[Path, InputProjection]:
        """Paths by which FFN neurons read the stream."""
        return {"up": self.up} if self.gate is None else {"up": self.up, "gate": self.gate}


@dataclass(frozen=True)
class ExpertRows:
    """Rows of all routed experts by one path, `expert * d_expert + n` for neuron n.

    Attributes:
        experts: whose.
        is_gate: whether they are the gate's, or the up path's.
    """

    experts: Experts
    is_gate: bool

    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """Return the rows of neurons, float32 `[n, d_model]`."""
        rows = self.experts.read_rows
        return rows[self._places(outputs, rows.device)].detach().float()

    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """Bias of the rows, float32 `[n_experts * d_expert]`, or None."""
        bias = self.experts.up_bias
        return None if bias is None else bias[self._places(None, bias.device)].detach().float()

    def _places(self, neurons: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the expert of all or of chosen neurons and the row there, gate and up stored together."""
        d_expert = self.experts.d_expert
        if neurons is None:
            neurons = torch.arange(self.experts.n_experts * d_expert)
        expert, neuron = neurons.to(device) // d_expert, neurons.to(device) % d_expert
        if not self.experts.module.is_concatenated:
            return expert, 2 * neuron + (0 if self.is_gate else 1)
        return expert, neuron + (0 if self.is_gate else d_expert)


@dataclass(frozen=True, eq=False)
class JointRows:
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
        """Return the rows of neurons, float32 `[n, d_model]`."""
        if outputs is None:
            return torch.cat([self.routed.rows(), self.shared.rows(self.of_shared)])
        inside = outputs < self.n_routed
        routed = self.routed.rows(outputs[inside])
        shared = self.shared.rows(self.of_shared[outputs[~inside] - self.n_routed])
        found = torch.empty(len(outputs), max(routed.shape[1], shared.shape[1]), device=outputs.device)
        found[inside], found[~inside] = routed.to(found.device), shared.to(found.device)
        return found

    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """Bias of the rows, float32 `[n_routed + n_shared]`, or None."""
        routed, shared = self.routed.constant(), self.shared.constant()
        if routed is None and shared is None:
            return None
        found = torch.zeros(self.n_routed + len(self.of_shared), device=self.of_shared.device)
        if routed is not None:
            found[: self.n_routed] = routed
        if shared is not None:
            found[self.n_routed :] = shared.to(found.device)[self.of_shared]
        return found


# What gives the rows of a linear map, and the bias of its outputs.
Rows = Linear | Experts | ExpertRows | JointRows
