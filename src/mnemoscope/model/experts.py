"""Mixtures of experts as one projection with every expert's neurons as inputs (docs/method.md#parts).

transformers keeps the experts of a layer as parameters of three axes and lets their code be exchanged. Ours
computes what enters the experts' down projections, router weights included, and hands it to a module, a
`Mixture`, that projects it. What belongs to a shared expert comes after the routed ones. So a layer of
experts is watched, ablated and differentiated like a dense one with many neurons, most of them silent: those
of experts that a token is not routed to have a coefficient of exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.isolation import Hold, held, stand_ins
from mnemoscope.model.linearised import weighing
from mnemoscope.model.weights import Linear, LowRank, is_adapted, read_parameter, read_weight

# The name under which the package registers its functions with transformers.
REGISTERED_NAME = "mnemoscope"
# Three-axis weights of experts: by expert, then as in `nn.Linear` or transposed.
_EXPERT_AXES = 3


class Mixture(nn.Module):
    """The down projections of a layer's experts as one module, and the shared expert's behind them.

    Its input n is neuron `n % d_expert` of expert `n // d_expert`, or of the shared expert from
    `n_experts * d_expert` on. It is no part of the model: it runs where the model's own experts would.

    Attributes:
        n_experts: how many experts a token can be routed to.
        d_expert: how many neurons each has.
        n_shared: how many neurons the shared expert has; 0 without one.
        matrix: all down projections as one.
    """

    def __init__(self, name: str, experts: nn.Module, parent: nn.Module) -> None:
        """Set up the mixture of one layer.

        Args:
            name: of the experts' module, for messages.
            experts: the module whose code is exchanged.
            parent: the module that routes tokens to it, and may have a shared expert.

        Raises:
            UnsupportedModelError: the experts' outputs pass a norm of their own.
        """
        super().__init__()
        if getattr(experts, "has_post_expert_norm", False):
            raise UnsupportedModelError(
                f"{name} ({type(experts).__name__}) passes each expert's output through a norm before it is "
                "weighted, which is not supported; see `mnemoscope models` for the supported families"
            )
        shared = _shared_down_projection(experts, parent)
        # In a tuple, so that they do not count as this module's own.
        self._modules_of_the_model = parent, shared
        # What `route` leaves for `_join`, in the same pass.
        self._routed: list[tuple[Tensor, Tensor]] = []
        self.name = name
        self.matrix = Experts(experts, None if shared is None else Linear(shared))
        self.n_experts, self.d_expert = self.matrix.n_experts, self.matrix.d_expert
        self.n_shared = self.matrix.n_inputs - self.n_experts * self.d_expert

    @property
    def shared(self) -> nn.Module | None:
        """Down projection of the shared expert, if there is one."""
        return self._modules_of_the_model[1]

    def forward(self, coefficients: Tensor, routing: Tensor) -> Tensor:
        """Compute the output of the experts, `[n_tokens, d_model]` in the weights' type.

        Weights of half precision are multiplied as the models' own code does, which weights an expert's
        output and not what enters it: another rounding could send a token to other experts in a later layer.

        Args:
            coefficients: what enters all down projections, router weights included, `[n_tokens, n_inputs]`
                float32 or wider; 0 for experts that a token is not routed to, unless they were replaced.
            routing: router weights, 0 for experts that a token is not routed to, `[n_tokens, n_experts]`.
        """
        experts, down, bias = self.matrix, self.matrix.down, self.matrix.down_bias
        dtype = down.dtype
        written = coefficients.new_zeros(len(coefficients), experts.d_model, dtype=dtype)
        for expert, tokens in _routed(routing):
            weight = routing[tokens, expert, None]
            entered = (coefficients[tokens][:, experts.inputs(expert)] / weight).to(dtype)
            part = entered @ down[expert]
            if bias is not None:
                part = part + bias[expert]
            written = written.index_add(0, tokens, (part * weight).to(dtype))
        # Interventions give neurons values at tokens that are not routed to their expert.
        given = coefficients[:, : self.n_experts * self.d_expert].unflatten(1, (self.n_experts, -1)).any(2)
        for expert, tokens in _routed(given & (routing == 0)):
            entered = coefficients[tokens][:, experts.inputs(expert)].to(dtype)
            written = written.index_add(0, tokens, entered @ down[expert])
        if experts.shared is not None:
            entered = coefficients[:, self.n_experts * self.d_expert :].to(dtype)
            written = written + entered @ experts.shared.columns().to(dtype)
        return written

    def route(self, states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Run the routed experts; with a shared one only so far that `join` can go on.

        Args:
            states: what the experts read, `[n_tokens, d_model]`.
            index: the experts of each token, `[n_tokens, n_chosen]`.
            weights: their router weights, `[n_tokens, n_chosen]`.
        """
        routing = weights.new_zeros(len(states), self.n_experts).scatter(1, index, weighing(weights))
        coefficients = self._coefficients(states, routing)
        if self.matrix.shared is None:
            return self(coefficients, routing)
        self._routed = [(coefficients, routing)]
        return torch.zeros_like(states)

    def join_experts(self, hold: Hold) -> None:
        """Let the router's module give what shared and routed experts write together until a hold ends."""
        parent, shared = self._modules_of_the_model
        if shared is None:
            return
        seen: dict[str, Tensor] = {}

        def see(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen["entered"], seen["written"] = args[0], output

        def join(module: nn.Module, args: Any, output: Any) -> Any:
            whole = output[0] if isinstance(output, tuple) else output
            joint = self._join(whole, seen["entered"], seen["written"]).view_as(whole)
            return (joint, *output[1:]) if isinstance(output, tuple) else joint

        for module, hook in ((shared, see), (parent, join)):
            hold.undo.append(module.register_forward_hook(hook).remove)

    def _join(self, added: Tensor, entered: Tensor, written: Tensor) -> Tensor:
        """Compute routed and shared experts as one projection, `[n_tokens, d_model]`.

        Args:
            added: what the router's module gives where routed experts give 0: the shared expert's output,
                times a factor for each token in some families.
            entered: what enters the shared expert's down projection.
            written: what that gives.
        """
        coefficients, routing = self._routed.pop()
        entered, written = (states.reshape(len(routing), -1) for states in (entered, written))
        factor = weighing(_factor(added.reshape(len(routing), -1), written))
        return self(torch.cat([coefficients, entered * factor], dim=1), routing)

    def _coefficients(self, states: Tensor, routing: Tensor) -> Tensor:
        """Compute the inputs of routed down projections, `[n_tokens, n_experts * d_expert]` float32."""
        experts, up, bias = self.matrix, self.matrix.read_rows, self.matrix.up_bias
        dtype = torch.promote_types(states.dtype, torch.float32)
        coefficients = states.new_zeros(len(states), self.n_experts * self.d_expert, dtype=dtype)
        for expert, tokens in _routed(routing):
            read = states[tokens] @ up[expert].T
            if bias is not None:
                read = read + bias[expert]
            active = experts.activate(read).to(dtype) * routing[tokens, expert, None]
            coefficients[tokens, experts.inputs(expert)] = active.to(dtype)
        return coefficients


@dataclass(frozen=True)
class Experts:
    """The down projections of experts, and a shared one's behind them, as one matrix like `Linear`.

    Attributes:
        module: the experts; `has_gate` says whether they have a gate beside the up path, `is_concatenated`
            whether rows of gate and up are stored one block behind the other instead of alternating.
        shared: the shared expert's down projection, or None.
    """

    module: Any
    shared: Linear | None

    @property
    def n_experts(self) -> int:
        """Number of routed experts."""
        return self._shape[0]

    @property
    def d_expert(self) -> int:
        """Number of neurons of each routed expert."""
        return self._shape[1]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._shape[2]

    @property
    def n_inputs(self) -> int:
        """Number of neurons of all experts."""
        return self.n_experts * self.d_expert + (0 if self.shared is None else self.shared.n_inputs)

    @property
    def up_bias(self) -> Tensor | None:
        """Biases of the experts' input projections, `[n_experts, n]`, or None."""
        return read_parameter(self.module, f"{self._up_name}_bias")

    @property
    def down_bias(self) -> Tensor | None:
        """Biases of the experts' down projections, `[n_experts, d_model]`, or None."""
        return read_parameter(self.module, "down_proj_bias")

    def inputs(self, expert: int) -> slice:
        """Return the inputs that are the neurons of a routed expert."""
        return slice(expert * self.d_expert, (expert + 1) * self.d_expert)

    def activate(self, read: Tensor) -> Tensor:
        """Compute down projection inputs from pre-activations, `[n_tokens, n] -> [n_tokens, d_expert]`."""
        return self.module._apply_gate(read) if self.module.has_gate else self.module.act_fn(read)

    def gated(self, up: Tensor, gate: Tensor | None) -> Tensor:
        """Compute down projection inputs of gated experts from both paths, `[..., n] -> [..., n]`."""
        if gate is None:
            raise TypeError("experts with a gate read by two paths")
        if self.module.is_concatenated:
            read = torch.cat([gate, up], dim=-1)
        else:
            read = torch.stack([gate, up], dim=-1).flatten(-2)
        with torch.no_grad():
            return self.activate(read)

    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """Compute the experts' biases times their router weights `[..., n_experts]`."""
        bias = self.down_bias
        return None if bias is None or routing is None else routing.float() @ bias.float().to(routing.device)

    def columns(self, inputs: Tensor | None = None) -> Tensor:
        """Return the columns of all or of chosen neurons, float32 `[n, d_model]`."""
        down = self.down
        every = torch.arange(self.n_inputs, device=down.device)
        inputs = every if inputs is None else inputs.to(down.device)
        inside = inputs < self.n_experts * self.d_expert
        found = torch.empty(len(inputs), self.d_model, device=down.device)
        found[inside] = down[self._places(inputs[inside])].float()
        if self.shared is not None:
            found[~inside] = self.shared.columns(inputs[~inside] - self.n_experts * self.d_expert)
        return found

    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """Return the weights of all or of chosen outputs, float32 `[n, n_inputs]`."""
        columns = self.columns().T
        return columns if outputs is None else columns[outputs]

    def scale_inputs(self, inputs: Tensor, factor: float) -> None:
        """Scale the columns of chosen neurons in place by `factor`."""
        n_routed = self.n_experts * self.d_expert
        with torch.no_grad():
            self.down[self._places(inputs[inputs < n_routed].to(self.down.device))] *= factor
        if self.shared is not None:
            self.shared.scale_inputs(inputs[inputs >= n_routed] - n_routed, factor)

    def scale(self, factor: float) -> None:
        """Scale all columns and biases in place by `factor`."""
        with torch.no_grad():
            self.down.mul_(factor)
            bias = self.down_bias
            if bias is not None:
                bias.mul_(factor)
        if self.shared is not None:
            self.shared.scale(factor)

    def _places(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the expert of each neuron and its index there, `[n]` each."""
        return inputs // self.d_expert, inputs % self.d_expert

    @property
    def down(self) -> Tensor:
        """Columns of the routed experts' neurons as stored, `[n_experts, d_expert, d_model]`."""
        weight = read_weight(self.module, "down_proj")
        return weight if self.module.is_transposed else weight.transpose(1, 2)

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Shape of `down`, read without loading it if it is offloaded."""
        n_experts, n, m = self.module.get_parameter("down_proj").shape
        return (n_experts, n, m) if self.module.is_transposed else (n_experts, m, n)

    @property
    def _up_name(self) -> str:
        return "gate_up_proj" if self.module.has_gate else "up_proj"

    @property
    def read_rows(self) -> Tensor:
        """Rows of gate and up as stored together, `[n_experts, n, d_model]`."""
        weight = read_weight(self.module, self._up_name)
        return weight.transpose(1, 2) if self.module.is_transposed else weight


def matrix_of(module: nn.Module) -> Linear | Experts:
    """Return the matrix of a linear module or of a mixture."""
    if isinstance(module, Mixture):
        return module.matrix
    return LowRank(module) if is_adapted(module) else Linear(module)


def mixtures_of(model: PreTrainedModel) -> Sequence[Mixture]:
    """Return the mixtures of experts of a model in the order of its modules; none for a dense model.

    Raises:
        UnsupportedModelError: some experts cannot be seen as a projection.
    """
    if model not in _known:
        names = [name for name, module in model.named_modules() if _are_experts(module)]
        _known[model] = stand_ins[model] = [
            Mixture(name, model.get_submodule(name), model.get_submodule(name.rpartition(".")[0]))
            for name in names
        ]
    return _known[model]


@contextmanager
def running_mixtures(model: PreTrainedModel) -> Iterator[None]:
    """Let the mixtures of a model run in place of its own experts while the context lasts."""
    with held(model) as hold:
        mixtures = [mixture for mixture in mixtures_of(model) if mixture.matrix.module not in _running]
        for mixture in mixtures:
            hold.undo.append(partial(_running.pop, mixture.matrix.module, None))
            _running[mixture.matrix.module] = mixture
            mixture.join_experts(hold)
        if mixtures:
            hold.set_implementation("_experts_implementation", REGISTERED_NAME)
        yield


_known: WeakKeyDictionary[PreTrainedModel, list[Mixture]] = WeakKeyDictionary()
# The mixtures that run now, by the experts they stand for.
_running: dict[nn.Module, Mixture] = {}


def run_mixture(module: nn.Module, states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Run the mixture that stands for an experts' module, as an experts function of transformers."""
    return _running[module].route(states, index, weights)


def _are_experts(module: nn.Module) -> bool:
    """Return whether transformers lets a module's expert code be exchanged."""
    weight = getattr(module, "down_proj", None)
    known = all(hasattr(module, name) for name in ("_apply_gate", "is_transposed", "has_gate"))
    return known and isinstance(weight, Tensor) and weight.ndim == _EXPERT_AXES


def _shared_down_projection(experts: nn.Module, parent: nn.Module) -> nn.Module | None:
    """Return the last matrix beside the experts that writes states (gate, up, down are made in order)."""
    d_model = Experts(experts, None).d_model
    found = None
    for module in parent.modules():
        if isinstance(module, nn.Linear) and module.out_features == d_model:
            found = module
    return found


def _routed(routing: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each expert that some token is routed to, with those tokens."""
    chosen = routing != 0
    for expert in torch.nonzero(chosen.any(0))[:, 0].tolist():
        yield expert, torch.nonzero(chosen[:, expert])[:, 0]


def _factor(scaled: Tensor, states: Tensor) -> Tensor:
    """Return the factor between two states of each token, `[n_tokens, 1]`."""
    squares = states.float().pow(2).sum(-1, keepdim=True)
    products = (scaled.float() * states.float()).sum(-1, keepdim=True)
    return products / squares.clamp_min(torch.finfo(torch.float32).tiny)
