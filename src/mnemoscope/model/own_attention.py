"""Watching attention that models compute with code of their own, which calls no function of ours.

While a pass runs, every torch function is looked at in passing. In the module that is running, attention
shows itself: a product (of queries and keys), a softmax (of the scores), and a product of what
softmax gave (with the values); or `scaled_dot_product_attention`. Nothing is changed, so the
implementation stays the one that the model was built with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from transformers import PreTrainedModel

from mnemoscope.model.attention_call import AttentionCall, QueryKeyCall, WeightsCall

# Functions by their names: each is there as a torch function, a method of tensors or an operator.
PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm"}
SOFTMAX = "softmax"
WHOLE_ATTENTION = "scaled_dot_product_attention"


def has_own_attention(model: PreTrainedModel) -> bool:
    """Whether no part of a model's code calls attention functions through transformers' interface."""
    sources = {type(module).__module__ for module in model.modules()}
    return not any(hasattr(sys.modules.get(name), "ALL_ATTENTION_FUNCTIONS") for name in sources)


@contextmanager
def watched_own_attention(model: nn.Module, observer: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Tell `observer` of the attention that a model's modules compute while the context lasts."""
    watch = _Watch(observer)
    with ExitStack() as stack:
        for module in model.modules():
            if any(True for _ in module.children()):
                stack.callback(module.register_forward_pre_hook(watch.enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(watch.leave).remove)
        stack.enter_context(watch)
        yield


@dataclass(eq=False)
class _Running:
    """A module while it runs, and how far its attention has come.

    Attributes:
        module: the module.
        given: the tensors that it was called with, the stream first.
        keys, product: second factor and result of its last product before a softmax.
        scores: what its last softmax was given.
        weights: what that gave, and the same cast and viewed.
    """

    module: nn.Module
    given: list[Tensor]
    keys: Tensor | None = None
    product: Tensor | None = None
    scores: Tensor | None = None
    weights: list[Tensor] = field(default_factory=list)

    def gave(self, tensors: list[Tensor]) -> bool:
        """Whether its last softmax gave one of these."""
        return any(found is weights for found in tensors for weights in self.weights)


class _Watch(TorchFunctionMode):
    """Looks at every torch function and follows those of the innermost module that is running."""

    def __init__(self, observer: Callable[[AttentionCall], None]) -> None:
        super().__init__()
        self._observer = observer
        self._running: list[_Running] = []

    def __exit__(self, *error: Any) -> None:
        """Leave the stack of modes, unless an interrupt let others take this mode away."""
        if torch._C._len_torch_function_stack() and _get_current_function_mode() is self:
            super().__exit__(*error)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook."""
        self._running.append(_Running(module, _tensors(args, kwargs)))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """A forward hook."""
        self._running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function and look at what came of it."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self._running and isinstance(output, Tensor):
            self._follow(getattr(func, "__name__", ""), args, kwargs, output)
        return output

    def _follow(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        running = self._running[-1]
        tensors = _tensors(args, kwargs)
        if name == WHOLE_ATTENTION:
            self._observer(_whole_call(running.module, *args, **kwargs))
        elif name == SOFTMAX:
            running.scores, running.weights = tensors[0], [output]
        elif name in PRODUCTS:
            factor, other = tensors[-2:]
            if running.gave([factor]):
                self._observer(_weights_call(running, factor, other))
                running.weights = []
            elif not running.weights:
                running.keys, running.product = other, output
        elif running.gave(tensors) and output.numel() == running.weights[0].numel():
            # Casts, views and the dropout that does nothing give the weights as other tensors.
            running.weights.append(output)


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]


def _weights_call(running: _Running, weights: Tensor, value: Tensor) -> WeightsCall:
    n_prompts = running.given[0].shape[0]

    def by_head(states: Tensor) -> Tensor:
        """Prompts and heads apart, where the model's code has them in one dimension."""
        return states.reshape(n_prompts, -1, *states.shape[-2:])

    scores, keys, product = running.scores, running.keys, running.product
    if scores is None or not scores.requires_grad:
        return WeightsCall(running.module, by_head(value), by_head(weights))
    if product is None or product.numel() != scores.numel():
        keys = None
    return WeightsCall(running.module, by_head(value), by_head(weights), by_head(scores), keys)


def _whole_call(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **others: Any,
) -> QueryKeyCall:
    """From the arguments of `scaled_dot_product_attention`, by the names it has for them."""
    scaling = query.shape[-1] ** -0.5 if scale is None else scale
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if attn_mask is None:
        attn_mask = query.new_zeros(1, 1)
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(
            ~attn_mask, torch.finfo(query.dtype).min
        )
    shape = (*[1] * (4 - attn_mask.ndim), *attn_mask.shape[:-2], query.shape[-2], key.shape[-2])
    return QueryKeyCall(module, value, query, key, attn_mask.expand(shape), scaling)
