"""Finding what neurons read, by watching one forward pass, like the structure.

Whatever module computes them, fused with others, interleaved or not, some of its outputs *are* the values
that attention was given, and some, passed through an activation, *are* the coefficients that enter the down
projection. What is found is kept only if the formula gives these outputs from the stream itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import permutations

import torch
from torch import Tensor, nn

from mnemoscope.model.discovery.recording import ModuleCall, close_states, equal_states
from mnemoscope.model.experts import Mixture, matrix_of
from mnemoscope.model.input_projections import (
    Activation,
    ExpertRows,
    InputProjection,
    InputProjections,
    JointRows,
    Rows,
    elementwise,
)
from mnemoscope.model.readout import Norm
from mnemoscope.model.tolerances import FORMULAS, RECOMPUTED_STATES, largest_error

# Activations that FFNs of decoder-only models use, by their names in transformers.
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu", "relu2", "quick_gelu", "sigmoid", "tanh")


@dataclass(frozen=True, eq=False)
class Watched:
    """Recorded tensors of one block.

    Attributes:
        steps: the modules that ran.
        resid_pre: the block's input, `[n_tokens, d_model]`.
        ffn_base: the state that the FFN reads, `[n_tokens, d_model]`.
        values: what attention was given, `[n_tokens, n_kv_heads * d_head]`.
        coefficients: what entered the down projection or, if there is one, the norm before it,
            `[n_tokens, d_ff]`.
        mixture: the FFN, if it is a mixture of experts.
        routing: router weights, `[n_tokens, n_experts]`, if it is one.
    """

    steps: Sequence[ModuleCall]
    resid_pre: Tensor
    ffn_base: Tensor
    values: Tensor
    coefficients: Tensor
    mixture: Mixture | None = None
    routing: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Type in which values are stored."""
        return self.values.dtype

    @property
    def tolerance(self) -> float:
        """Largest relative error of a formula."""
        return FORMULAS.of(self.dtype)


@dataclass(frozen=True, eq=False)
class _Track:
    """Outputs of a matrix that could be a factor of the coefficients, one for each."""

    step: ModuleCall
    outputs: Tensor

    @cached_property
    def values(self) -> Tensor:
        """`[n_tokens, d_ff]` float32."""
        return self.step.states[:, self.outputs].float()


def find_input_projections(watched: Watched) -> InputProjections | None:
    """Find the input projections of a block; None if they do not give its coefficients."""
    value = _find_value(watched)
    if value is None:
        return None
    if watched.mixture is not None and watched.routing is not None:
        return _find_experts(watched, watched.mixture, watched.routing, value)
    ffn = _find_ffn(watched)
    if ffn is None:
        return None
    activation, up, gate = ffn
    return InputProjections(value, up, gate, activation)


def _find_experts(
    watched: Watched, mixture: Mixture, routing: Tensor, value: InputProjection
) -> InputProjections | None:
    """Find the input projections of gated experts; None if the formula does not give the coefficients.

    Router weights are taken as they were, and of the shared expert what enters its own down projection.
    """
    experts = mixture.matrix
    if not experts.module.has_gate:
        return None
    n_routed = mixture.n_experts * mixture.d_expert
    by_path: dict[str, Rows] = {"up": ExpertRows(experts, False), "gate": ExpertRows(experts, True)}
    shared = next((step for step in watched.steps if step.module is mixture.shared), None)
    if shared is not None:
        found = _find_ffn(replace(watched, coefficients=shared.states_given))
        if found is None or found[2] is None:
            return None
        for path, projection in (("up", found[1]), ("gate", found[2])):
            by_path[path] = JointRows(by_path[path], projection.matrix, n_routed, projection.outputs)
    weights = routing.float().repeat_interleave(mixture.d_expert, dim=1)
    entered = watched.coefficients[:, :n_routed].float()
    if shared is not None:
        weights = torch.cat([weights, torch.ones_like(shared.states_given)], dim=1)
        entered = torch.cat([entered, shared.states_given.float()], dim=1)
    x = watched.ffn_base.float()
    every = torch.arange(experts.n_inputs, device=x.device)
    for norm in (*_norms(watched), None):
        up, gate = (InputProjection(by_path[path], every, norm) for path in ("up", "gate"))
        made = experts.gated(up.read(x), gate.read(x)) * weights
        sizes = _sizes(up, x) * _sizes(gate, x) * weights
        if largest_error(made, entered, sizes, watched.dtype) < watched.tolerance:
            return InputProjections(value, up, gate, experts.gated, rescaled=True)
    return None


def _norms(watched: Watched) -> Iterator[Norm]:
    """Find the norms of the FFN's input."""
    for step in watched.steps:
        norm = None if step.is_matrix else step.norm()
        if norm is not None and close_states(step.states_given, watched.ffn_base, RECOMPUTED_STATES):
            yield norm


def _find_value(watched: Watched) -> InputProjection | None:
    for step in _matrices(watched.steps):
        found = _same_columns(step.states, watched.values)
        projection = None if found is None else _projection(watched, step, found, watched.resid_pre)
        if projection is not None:
            return projection
    return None


def _find_ffn(watched: Watched) -> tuple[Activation, InputProjection, InputProjection | None] | None:
    """Find activation, up and gate among outputs that give the coefficients."""
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
    function, up, gate = made
    up_projection = _projection(watched, up.step, up.outputs, watched.ffn_base)
    gate_projection = (
        None if gate is None else _projection(watched, gate.step, gate.outputs, watched.ffn_base)
    )
    if up_projection is None or (gate is not None and gate_projection is None):
        return None
    return partial(elementwise, function), up_projection, gate_projection


def _best(
    watched: Watched, functions: Sequence[str | nn.Module], tracks: Sequence[_Track]
) -> tuple[str | nn.Module, _Track, _Track | None] | None:
    """Find the activation, up and gate that give the coefficients with the least error."""
    pairs = [*((up, None) for up in tracks), *permutations(tracks, 2)]
    made = [(function, up, gate) for function in functions for up, gate in pairs]
    entered = watched.coefficients.float()
    errors = []
    for function, up, gate in made:
        found = elementwise(function, up.values, None if gate is None else gate.values)
        sizes = up.values if gate is None else up.values * gate.values
        errors.append(largest_error(found, entered, sizes, watched.dtype))
    best = min(range(len(made)), key=errors.__getitem__, default=None)
    return None if best is None or not errors[best] < watched.tolerance else made[best]


def _activations_run(watched: Watched) -> Iterator[nn.Module]:
    """Find modules that map d_ff values elementwise and so could be the FFN's activation."""
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


def _projection(
    watched: Watched, step: ModuleCall, outputs: Tensor, states: Tensor
) -> InputProjection | None:
    """Find the projection of some outputs of a module, with the norm that gives them from states."""
    given, after = step.states_given, step.states[:, outputs].float()
    if given.shape != states.shape:
        return None
    norms = [norm.norm() for norm in watched.steps if not norm.is_matrix and equal_states(norm.states, given)]
    for norm in (*(norm for norm in norms if norm is not None), None):
        projection = InputProjection(matrix_of(step.module), outputs, norm)
        x = states.float()
        if largest_error(projection.read(x), after, _sizes(projection, x), watched.dtype) < watched.tolerance:
            return projection
    return None


def _sizes(projection: InputProjection, states: Tensor) -> Tensor:
    """Compute the root of the sum of squared terms of each pre-activation, `[n_states, n]`."""
    every = torch.arange(len(projection.outputs), device=projection.outputs.device)
    terms = (states.pow(2) @ projection.keys().pow(2).T).sqrt()
    return projection.scale(states)[:, None] * terms + projection.constants(every).abs()


def _matrices(steps: Sequence[ModuleCall]) -> Iterator[ModuleCall]:
    return (step for step in steps if step.is_matrix)


def _same_columns(outputs: Tensor, values: Tensor) -> Tensor | None:
    """Match each column of values with the equal column of outputs; None if one has no match."""
    if outputs.shape[0] != values.shape[0]:
        return None
    weights = torch.linspace(1, 2, len(values), dtype=torch.float64, device=values.device).sin()
    marks, wanted = weights @ outputs.double(), weights @ values.double()
    order = marks.argsort()
    found = order[torch.searchsorted(marks[order], wanted).clamp_max(len(order) - 1)]
    return found if torch.equal(outputs[:, found], values) else None
