"""How a head's attention scores answer to the stream, from one block run once more, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mnemoscope.model.hooks import AttentionCall, hidden_states, observed_attention
from mnemoscope.model.language_model import LanguageModel


@dataclass(eq=False)
class BlockCall:
    """What a block was called with, so that it can be called again on its own.

    Attributes:
        others: its arguments but the stream, by place and by name.
    """

    others: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    _states: list[Tensor] = field(default_factory=list)

    @property
    def states(self) -> Tensor:
        """The stream that it read, `[n_prompts, n_tokens, d_model]`."""
        return self._states[-1]

    def keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the block."""
        self._states.append(hidden_states(args, kwargs).detach())
        self.others = args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}


@contextmanager
def watched_block(block: nn.Module) -> Iterator[BlockCall]:
    """Keep what a block is called with while the context lasts."""
    call = BlockCall()
    handle = block.register_forward_pre_hook(call.keep, with_kwargs=True)
    try:
        yield call
    finally:
        handle.remove()


def key_gradients(language_model: LanguageModel, layer: int, head: int, call: BlockCall) -> Tensor:
    """What would raise a head's attention scores from the last position, each by its own position.

    The score of position p is `scaling * <query of the last position, key at p>` with the query held
    fixed. The key depends on the stream at p alone, so one backward pass of the sum of scores gives the
    gradient of each: through norms, rotation and whatever else the block does to make keys. The
    weights keep their gradients.

    Args:
        language_model: whose head it is.
        layer: of the block.
        head: a query head of it.
        call: what the block was called with for one prompt, under `observed_attention`.

    Returns:
        `[n_tokens, d_model]` float32; zero where the mask hides the position from the last one.

    Raises:
        UnsupportedModelError: attention of this family does not hand out its keys.
    """
    seen: list[AttentionCall] = []
    states = call.states.detach().requires_grad_()
    args, kwargs = call.others
    block = language_model.anatomy.blocks[layer].module
    with observed_attention(language_model.model, seen.append), torch.enable_grad():
        block(states, *args, **kwargs)
        (gradients,) = torch.autograd.grad(seen[0].score_by_keys(head), states)
    return gradients[0].float().to(language_model.anatomy.device)
