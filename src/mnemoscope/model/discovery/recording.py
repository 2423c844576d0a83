"""Recording of one forward pass, block by block: the raw material of discovery."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from mnemoscope.model.attention import AttentionCall
from mnemoscope.model.experts import Mixture, mixtures_of
from mnemoscope.model.hooks import first_tensor, hidden_states, observed_attention
from mnemoscope.model.readout import Norm
from mnemoscope.model.tolerances import FORMULAS, RECORDED_STATES
from mnemoscope.model.weights import is_adapted, output_device


@dataclass(eq=False)
class ModuleCall:
    """Call of a leaf module, or of attention.

    Attributes:
        name: the module's path in the model.
        module: what ran.
        given: its first argument, `[..., n]`; of a call the values.
        output: what it gave; of a call the values.
        call: what attention was handed; None of other modules.
        routing: router weights that it was given, `[n_tokens, n_experts]`; None but of a mixture of experts.
    """

    name: str
    module: nn.Module
    given: Tensor
    output: Tensor
    call: AttentionCall | None = None
    routing: Tensor | None = None

    @property
    def is_matrix(self) -> bool:
        """Whether the module multiplied by a matrix."""
        return self.call is None and (_n_axes(self.module) == 2 or isinstance(self.module, Mixture))

    @property
    def states_given(self) -> Tensor:
        """Input, `[n_tokens, n]`."""
        return self.given.reshape(-1, self.given.shape[-1])

    @property
    def states(self) -> Tensor:
        """Output, `[n_tokens, n]`."""
        return self.output.reshape(-1, self.output.shape[-1])

    def norm(self) -> Norm | None:
        """Find the norm that the call computed; None if it is no norm.

        A module with a weight vector counts as one; validation finds out if it does something else. A module
        without weights must do what a norm of weight 1 does.
        """
        if self.call is not None or self.given.shape != self.output.shape:
            return None
        if _n_axes(self.module) == 1:
            return Norm.recognise(self.module, self.states_given, self.states)[0]
        if any(True for _ in self.module.parameters()) or torch.equal(self.given, self.output):
            return None
        norm, error = Norm.recognise(self.module, self.states_given, self.states)
        return norm if error < FORMULAS.of(self.given.dtype) else None


@dataclass(eq=False)
class ForwardRecord:
    """Record of one forward pass.

    Attributes:
        device: where the head reads states; all that was seen is brought there.
        steps: what ran in each block, in order.
        block_inputs: the stream that each block started from, `[1, n_tokens, d_model]`.
        block_outputs: the stream that it left.
        outside: what ran outside of all blocks, in order.
        logits: the model's own, `[n_tokens, n_vocabulary]`.
    """

    device: torch.device
    steps: dict[int, list[ModuleCall]] = field(default_factory=dict)
    block_inputs: dict[int, Tensor] = field(default_factory=dict)
    block_outputs: dict[int, Tensor] = field(default_factory=dict)
    outside: list[ModuleCall] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def record_forward(model: PreTrainedModel, layers: nn.ModuleList, probe: Tensor) -> ForwardRecord:
    """Run a model once on `probe`, token ids `[1, n_tokens]`."""
    record = ForwardRecord(output_device(model), steps={i: [] for i in range(len(layers))})
    owner = {id(m): i for i, layer in enumerate(layers) for m in layer.modules()}
    with ExitStack() as stack:
        for i, layer in enumerate(layers):
            for handle in _watch_block(layer, record, i):
                stack.enter_context(handle)
        for name, module in _leaves(model):
            steps = record.steps[owner[id(module)]] if id(module) in owner else record.outside
            stack.enter_context(_watch_leaf(name, module, steps, record.device))
        for mixture in mixtures_of(model):
            steps = record.steps[owner[id(mixture.matrix.module)]]
            stack.enter_context(_watch_leaf(mixture.name, mixture, steps, record.device))

        def on_call(call: AttentionCall) -> None:
            if id(call.module) in owner:
                value = call.value.to(record.device)
                step = ModuleCall("", call.module, value, value, call)
                record.steps[owner[id(call.module)]].append(step)

        stack.enter_context(observed_attention(model, on_call))
        with torch.no_grad():
            record.logits = model(input_ids=probe, use_cache=False).logits[0].to(record.device)
    return record


def _leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the leaf modules, and linear layers with adapters as one module."""
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if is_adapted(module):
            inside.update(module.modules())
        if is_adapted(module) or not any(True for _ in module.children()):
            yield name, module


def _watch_leaf(
    name: str, module: nn.Module, steps: list[ModuleCall], device: torch.device
) -> RemovableHandle:
    """Append the calls of a module to `steps` until the handle is removed."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        gave = first_tensor(output)  # routers of experts give their choice beside their logits
        if args and isinstance(args[0], Tensor) and isinstance(gave, Tensor):
            # Falcon goes on to add the attention's output to the FFN's in place.
            routing = args[1].detach().to(device) if isinstance(module, Mixture) else None
            given, output = args[0].detach().to(device), gave.detach().clone().to(device)
            steps.append(ModuleCall(name, module, given, output, routing=routing))

    return module.register_forward_hook(hook)


def _watch_block(layer: nn.Module, record: ForwardRecord, index: int) -> Iterator[RemovableHandle]:
    """Register hooks that record the stream before and after a block, and yield their handles."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record.block_inputs[index] = hidden_states(args, kwargs).detach().clone().to(record.device)

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        left = first_tensor(tuple(output) if isinstance(output, list) else output)
        record.block_outputs[index] = left.detach().clone().to(record.device)

    yield layer.register_forward_pre_hook(before, with_kwargs=True)
    yield layer.register_forward_hook(after)


def equal_states(found: Tensor, expected: Tensor) -> bool:
    """Return whether two records are of one shape and equal to the bit."""
    return found.shape == expected.shape and torch.equal(found, expected)


def close_states(found: Tensor, expected: Tensor, absolute: float = RECORDED_STATES) -> bool:
    """Return whether two records are of one shape and equal up to rounding."""
    return found.shape == expected.shape and torch.allclose(found, expected.to(found.dtype), atol=absolute)


def _n_axes(module: nn.Module) -> int:
    """Return the number of axes of a module's weight; 0 without one."""
    weight = getattr(module, "weight", None)
    return weight.ndim if isinstance(weight, Tensor) else 0
