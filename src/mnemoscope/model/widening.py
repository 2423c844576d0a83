"""Float32 passes through half-precision weights, backward passes included.

Gradients in half precision are off by some per cent, and by far more where they nearly cancel. Weights are
therefore widened in place, block by block while each runs. A backward pass runs every block a second time
instead of keeping the widened weights, so that memory holds one block twice. Packed or offloaded weights are
not widened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformers import PreTrainedModel

from mnemoscope.model.hooks import running_alike
from mnemoscope.model.isolation import modules_of, replaced_forward
from mnemoscope.model.structure import ModelStructure

HALF = (torch.float16, torch.bfloat16)


def can_widen(model: PreTrainedModel) -> bool:
    """Return whether a model has half-precision weights and all of its weights are plain and in memory."""
    return _has_plain_weights(model) and _has_half_precision(model)


def is_float32(model: PreTrainedModel) -> bool:
    """Return whether a model's weights are all plain, in memory, and float32 or wider."""
    return _has_plain_weights(model) and not _has_half_precision(model)


def _has_plain_weights(model: PreTrainedModel) -> bool:
    kinds = _kinds_of_weights(model)
    plain = all(dtype.is_floating_point and device.type != "meta" for dtype, device in kinds)
    return plain and not any("_hf_hook" in module.__dict__ for module in modules_of(model))


def _has_half_precision(model: PreTrainedModel) -> bool:
    return any(dtype in HALF for dtype, _ in _kinds_of_weights(model))


def _kinds_of_weights(model: PreTrainedModel) -> set[tuple[torch.dtype, torch.device]]:
    """Return the types and devices of a model's weights."""
    of_modules = (module._parameters.values() for module in modules_of(model))
    return {
        (weight.dtype, weight.device) for weights in of_modules for weight in weights if weight is not None
    }


@contextmanager
def in_float32(model: PreTrainedModel, structure: ModelStructure) -> Iterator[None]:
    """Run a model's body in float32 while the context lasts, backward passes included.

    Models of float32 or wider, and packed or offloaded ones, run in their own type: gradients of the latter
    have its rounding.
    """
    if not can_widen(model):
        yield
        return
    blocks = [block.module for block in structure.blocks]
    inside = {module for block in blocks for module in block.modules()}
    with ExitStack() as stack:
        # A backward pass must run the blocks as the forward pass did, for as long as there can be one.
        stack.enter_context(running_alike(model, runs=False))
        stack.enter_context(_widened(m for m in model.base_model.modules() if m not in inside))
        for block in blocks:
            stack.enter_context(replaced_forward(block, _checkpointed(block, block.forward)))
        yield


def _checkpointed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward function that widens the block's weights and that a backward pass runs again."""

    def run(*args: Any, **kwargs: Any) -> Any:
        # A backward pass may call from another thread, which has none of this thread's context variables.
        context = copy_context()

        def once(*args: Any, **kwargs: Any) -> Any:
            with _widened(block.modules()):
                return context.copy().run(forward, *args, **kwargs)

        if not torch.is_grad_enabled():
            return once(*args, **kwargs)
        # No early stop: hooks of attention count on every module being left.
        with set_checkpoint_early_stop(False):
            return checkpoint(once, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


@contextmanager
def _widened(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Widen the modules' own half-precision parameters and buffers while the context lasts."""
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for module in modules:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.dtype in HALF:
                    kept.append((tensor, tensor.data))
                    tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, own in reversed(kept):
            tensor.data = own
