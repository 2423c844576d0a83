"""Gradients of one head's attention scores by its keys: what in the stream makes it attend where it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mnemoscope.model.hooks import AttentionCall, hidden_states, observed_attention, without_states
from mnemoscope.model.language_model import LanguageModel


@dataclass(eq=False)
class BlockCall:
    """Arguments of one call of a block, with which it can be called again.

    Attributes:
        states: the stream before the block, `[n_prompts, n_tokens, d_model]`.
        others: positional and named arguments other than the stream.
    """

    states: Tensor = field(default_factory=lambda: torch.empty(0))
    others: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the arguments, as a forward pre-hook of the block."""
        self.states = hidden_states(args, kwargs).detach()
        self.others = without_states(args, kwargs)


@contextmanager
def watched_block(block: nn.Module) -> Iterator[BlockCall]:
    """Record the arguments of a block while the context lasts."""
    call = BlockCall()
    with block.register_forward_pre_hook(call.keep, with_kwargs=True):
        yield call


def key_gradients(language_model: LanguageModel, layer: int, head: int, call: BlockCall) -> Tensor:
    """Return the gradients of a head's attention scores at the last position by the stream at each position.

    The score of position p is `scaling * <query of the last position, key at p>` with the query held fixed.
    The key depends on the stream at p alone, so one backward pass of the sum of scores gives the gradient of
    each, through norms and rotation. The weights keep their gradients.

    Args:
        language_model: the model.
        layer: layer of the head.
        head: a query head.
        call: arguments of the block for one prompt, recorded under `observed_attention`.

    Returns:
        `[n_tokens, d_model]` float32; zero where the mask hides the position from the last one.

    Raises:
        UnsupportedModelError: attention of this family does not expose its keys.
    """
    seen: list[AttentionCall] = []
    states = call.states.detach().requires_grad_()
    args, kwargs = call.others
    block = language_model.structure.blocks[layer].module
    with observed_attention(language_model.model, seen.append), torch.enable_grad():
        block(states, *args, **kwargs)
        (gradients,) = torch.autograd.grad(seen[0].score_by_keys(head), states)
    return gradients[0].float().to(language_model.structure.device)
