"""What neurons read: the rows that turn the normed stream into values and pre-activations (METHOD section 6).

Found by watching one forward pass, like the anatomy: whatever module computes them, fused with others,
interleaved or not, some of its outputs *are* the values that attention was given, and some, passed through
an activation, *are* the coefficients that enter the down projection. What is found is kept only if the
formula gives these outputs from the stream itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from mnemoscope.model.matrix import matrix_of
from mnemoscope.model.readout import Norm, relative_error
from mnemoscope.model.watching import TOLERANCES, Step

# Activations that FFNs of decoder-only models use, by their names in transformers.
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu", "relu2", "quick_gelu", "sigmoid", "tanh")
# What FFN neurons pass: its name in transformers, or a module of the model.
Activation = str | nn.Module
# How a neuron reads the stream; `"down"` is how the authors' Llama notebook takes it to.
Path = Literal["value", "up", "gate", "down"]


@dataclass(frozen=True)
class Reader:
    """Rows that read the stream: `value[n] = scale(x) * <keys[n], x> + constants[n]` for a state x.

    Attributes:
        module: what multiplies with the matrix.
        outputs: which of its outputs belong to the neurons, in their order, `[n]`.
        norm: what the stream passes before; None if it is read as it is.
    """

    module: nn.Module
    outputs: Tensor
    norm: Norm | None

    def rows(self, neurons: Tensor | None = None) -> Tensor:
        """The weights that read for each neuron, `[n, d_model]` float32, of all for None."""
        index = self.outputs if neurons is None else self.outputs[neurons]
        return matrix_of(self.module).rows(index)

    def keys(self, neurons: Tensor | None = None) -> Tensor:
        """Subkeys: what neurons read of the stream but for the norm's scale, `[n, d_model]` float32.

        The inner product with a component of the stream, times the scale, is what it contributes: the norm's
        weight is absorbed, and for LayerNorm the mean is taken away.
        """
        rows = self.rows(neurons)
        return rows if self.norm is None else self.norm.centre(rows * self.norm.weight)

    def constants(self, neurons: Tensor) -> Tensor:
        """What neurons get whatever the stream holds, `[n]`: the bias, and what they read of the norm's."""
        bias = matrix_of(self.module).bias
        found = torch.zeros(len(neurons), device=self.outputs.device)
        if bias is not None:
            found = found + bias[self.outputs[neurons]]
        if self.norm is not None and self.norm.bias is not None:
            found = found + self.rows(neurons) @ self.norm.bias
        return found

    def scale(self, states: Tensor) -> Tensor:
        """The norm's frozen factor at states, `[..., d_model] -> [...]`; 1 if they are read as they are."""
        return states.new_ones(states.shape[:-1]) if self.norm is None else self.norm.scale(states)


@dataclass(frozen=True)
class Readers:
    """What the neurons of one layer read with.

    Attributes:
        value: the attention's values, in the order of `[n_kv_heads, d_head]`; reads `resid_pre`.
        up: pre-activations of FFN neurons, or the factor beside the gate.
        gate: pre-activations of the gate; None in FFNs without one.
        activation: what the gate passes if there is one: its name, or the model's own module.
    """

    value: Reader
    up: Reader
    gate: Reader | None
    activation: Activation

    @property
    def ffn(self) -> dict[Path, Reader]:
        """The paths by which the stream reaches FFN neurons."""
        return {"up": self.up} if self.gate is None else {"up": self.up, "gate": self.gate}

    def coefficients(self, up: Tensor, gate: Tensor | None) -> Tensor:
        """What enters the down projection, from what was read, `[n] -> [n]`."""
        return _activated(self.activation, up, gate)


@dataclass(frozen=True)
class Watched:
    """What was watched in one block.

    Attributes:
        steps: the modules that ran.
        resid_pre: the block's input, `[n_tokens, d_model]`.
        ffn_base: the state that the FFN reads, `[n_tokens, d_model]`.
        values: what attention was given, `[n_tokens, n_kv_heads * d_head]`.
        coefficients: what entered the down projection, `[n_tokens, d_ff]`.
    """

    steps: Sequence[Step]
    resid_pre: Tensor
    ffn_base: Tensor
    values: Tensor
    coefficients: Tensor

    @property
    def tolerance(self) -> float:
        """How far off the formula may be."""
        return TOLERANCES.get(self.values.dtype, TOLERANCES[torch.bfloat16])


@dataclass(frozen=True)
class _Track:
    """Outputs of a matrix that could be a factor of the coefficients, one for each."""

    step: Step
    outputs: Tensor

    @cached_property
    def values(self) -> Tensor:
        """`[n_tokens, d_ff]` float32."""
        return self.step.states[:, self.outputs].float()


def find_readers(watched: Watched) -> Readers | None:
    """The readers of a block; None if its values or its coefficients cannot be told from the stream."""
    value, ffn = _find_value(watched), _find_ffn(watched)
    if value is None or ffn is None:
        return None
    activation, up, gate = ffn
    return Readers(value, up, gate, activation)


def _find_value(watched: Watched) -> Reader | None:
    for step in _matrices(watched.steps):
        found = _same_columns(step.states, watched.values)
        reader = None if found is None else _reader(watched, step, found, watched.resid_pre)
        if reader is not None:
            return reader
    return None


def _activated(activation: Activation, up: Tensor, gate: Tensor | None) -> Tensor:
    activate = ACT2FN[activation] if isinstance(activation, str) else activation
    with torch.no_grad():
        return activate(up) if gate is None else activate(gate) * up


def _find_ffn(watched: Watched) -> tuple[Activation, Reader, Reader | None] | None:
    """Activation, up and gate of the outputs that make the coefficients best, if they do."""
    d_ff = watched.coefficients.shape[-1]
    tracks = [
        _Track(step, torch.arange(d_ff, device=watched.coefficients.device) * stride + start)
        for step in _matrices(watched.steps)
        for start, stride in _tracks(step.states.shape[-1], d_ff)
    ]
    # A module that ran is the activation itself; names are for FFNs that call a function.
    made = _best(watched, tuple(_activations_run(watched)), tracks) or _best(watched, ACTIVATIONS, tracks)
    if made is None:
        return None
    activation, up, gate = made
    up_reader = _reader(watched, up.step, up.outputs, watched.ffn_base)
    gate_reader = None if gate is None else _reader(watched, gate.step, gate.outputs, watched.ffn_base)
    if up_reader is None or (gate is not None and gate_reader is None):
        return None
    return activation, up_reader, gate_reader


def _best(
    watched: Watched, activations: Sequence[Activation], tracks: Sequence[_Track]
) -> tuple[Activation, _Track, _Track | None] | None:
    """The activation, up and gate that make the coefficients best, if they do."""
    pairs = [*((up, None) for up in tracks), *permutations(tracks, 2)]
    made = [(activation, up, gate) for activation in activations for up, gate in pairs]
    errors = [
        relative_error(
            _activated(activation, up.values, None if gate is None else gate.values),
            watched.coefficients.float(),
        )
        for activation, up, gate in made
    ]
    best = min(range(len(made)), key=errors.__getitem__, default=None)
    return None if best is None or not errors[best] < watched.tolerance else made[best]


def _activations_run(watched: Watched) -> Iterator[nn.Module]:
    """The modules that could be the FFN's activation: those that gave each of d_ff values another one."""
    shape = watched.coefficients.shape
    for step in watched.steps:
        shapes_fit = not step.is_matrix and step.states_given.shape == step.states.shape == shape
        if shapes_fit and not torch.equal(step.states_given, step.states) and step.norm() is None:
            yield step.module


def _tracks(n_outputs: int, d_ff: int) -> Iterator[tuple[int, int]]:
    """Start and stride of outputs that could be a factor: alone, one of two halves, or every other."""
    if n_outputs == d_ff:
        yield 0, 1
    elif n_outputs == 2 * d_ff:
        yield from ((0, 1), (d_ff, 1), (0, 2), (1, 2))


def _reader(watched: Watched, step: Step, outputs: Tensor, states: Tensor) -> Reader | None:
    """The reader of some outputs of a module, with the norm by which the formula gives them from states."""
    given, after = step.states_given, step.states[:, outputs].float()
    if given.shape != states.shape:
        return None
    norms = [norm.norm() for norm in watched.steps if not norm.is_matrix and _same(norm.states, given)]
    neurons = torch.arange(len(outputs), device=outputs.device)
    for norm in (*(norm for norm in norms if norm is not None), None):
        reader = Reader(step.module, outputs, norm)
        x = states.float()
        found = reader.scale(x)[:, None] * (x @ reader.keys().T) + reader.constants(neurons)
        if relative_error(found, after) < watched.tolerance:
            return reader
    return None


def _matrices(steps: Sequence[Step]) -> Iterator[Step]:
    return (step for step in steps if step.is_matrix)


def _same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.equal(found, expected)


def _same_columns(outputs: Tensor, values: Tensor) -> Tensor | None:
    """For each column of values the column of outputs that equals it; None if one has none."""
    if outputs.shape[0] != values.shape[0]:
        return None
    weights = torch.linspace(1, 2, len(values), dtype=torch.float64, device=values.device).sin()
    marks, wanted = weights @ outputs.double(), weights @ values.double()
    order = marks.argsort()
    found = order[torch.searchsorted(marks[order], wanted).clamp_max(len(order) - 1)]
    return found if torch.equal(outputs[:, found], values) else None
