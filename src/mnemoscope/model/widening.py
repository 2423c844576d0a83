"""Passes in float32 through a model whose weights are stored in half precision.

Gradients in half precision are off by some per cent, and by far more where they nearly cancel. The weights
are widened in place, block by block while each runs, and are the model's own again behind it: a backward pass
runs every block a second time instead of keeping what it widened, so that memory holds one block twice.
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

from mnemoscope.model.anatomy import Anatomy
from mnemoscope.model.hooks import running_alike

HALF = (torch.float16, torch.bfloat16)


def can_widen(model: PreTrainedModel) -> bool:
    """Whether a model has half-precision weights, all of them plain ones that are in memory."""
    weights = list(model.base_model.parameters())
    plain = all(weight.is_floating_point() and weight.device.type != "meta" for weight in weights)
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    return plain and not hooked and any(weight.dtype in HALF for weight in weights)


@contextmanager
def in_float32(model: PreTrainedModel, anatomy: Anatomy) -> Iterator[None]:
    """Compute in float32 what runs through a model's body while the context lasts, backward passes included.

    A model of float32 or wider runs as ever. So does one whose weights are packed or offloaded: gradients
    then have the rounding of the type that it computes with.
    """
    if not can_widen(model):
        yield
        return
    blocks = [block.module for block in anatomy.blocks]
    inside = {module for block in blocks for module in block.modules()}
    with ExitStack() as stack:
        # What a backward pass runs again has to run as it did at first, for as long as there can be one.
        stack.enter_context(running_alike(model, runs=False))
        stack.enter_context(_widened(m for m in model.base_model.modules() if m not in inside))
        for block in blocks:
            own = vars(block).get("forward")
            block.forward = _checkpointed(block, block.forward)
            stack.callback(_put_back, block, own)
        yield


def _checkpointed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's forward function that widens the weights while it runs, and runs again in a backward pass."""

    def run(*args: Any, **kwargs: Any) -> Any:
        # A backward pass may call it from a thread of its own, which knows nothing of what is in force.
        context = copy_context()

        def once(*args: Any, **kwargs: Any) -> Any:
            with _widened(block.modules()):
                return context.copy().run(forward, *args, **kwargs)

        if not torch.is_grad_enabled():
            return once(*args, **kwargs)
        # To the end each time: what watches modules counts on their leaving.
        with set_checkpoint_early_stop(False):
            return checkpoint(once, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


@contextmanager
def _widened(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Half-precision parameters and buffers of modules themselves in float32 while the context lasts."""
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


def _put_back(block: nn.Module, own: Callable[..., Any] | None) -> None:
    if own is None:
        del block.forward
    else:
        block.forward = own
