"""Attention calls of one forward pass, registered with transformers or computed by a model's own code.

While a pass runs, every torch function is looked at in passing. In the module that is running, attention
shows itself: a product (of queries and keys), a softmax (of the scores), and a product of what
softmax gave (with the values); or `scaled_dot_product_attention`. Nothing is changed, so the
implementation stays the one that the model was built with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.isolation import modules_of
from mnemoscope.model.readout import capped
from mnemoscope.model.tolerances import MASKED_SCORE_DROP
from mnemoscope.model.torch_state import FunctionMode


@dataclass(frozen=True, eq=False)
class QueryKeyCall:
    """Attention call with known queries and keys, from which weights are computed on demand.

    A score is `scaling * <query, key>`, through the soft-cap if there is one, plus the mask.

    Attributes:
        module: the attention module.
        value: `[n_prompts, n_kv_heads, n_tokens, d_head]`; query head h reads key/value head
            `h // (n_heads / n_kv_heads)`.
        query: `[n_prompts, n_heads, n_tokens, d_head]`.
        key: `[n_prompts, n_kv_heads, n_tokens, d_head]`.
        mask: added to the scores, broadcastable to `[n_prompts, n_heads, n_tokens, n_tokens]`.
        scaling: factor of the scores.
        soft_cap: cap of the scores; None if they have none.
        sinks: a score of each head, `[n_heads]`, for attending to nothing: what it takes is missing from
            the weights, which then sum to less than 1. None if there are none.
    """

    module: nn.Module
    value: Tensor
    query: Tensor
    key: Tensor
    mask: Tensor
    scaling: float
    soft_cap: float | None = None
    sinks: Tensor | None = None

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.query.shape[1]

    def pattern(self, positions: Tensor) -> Tensor:
        """Attention weights of one query position per prompt, float32 `[n_prompts, n_heads, n_tokens]`.

        Args:
            positions: the query position of each prompt, `[n_prompts]`.
        """
        prompts = torch.arange(len(positions), device=positions.device)
        query = self.query[prompts, :, positions][:, :, None]
        mask = self.mask.expand(len(positions), -1, -1, -1)[prompts, :, positions][:, :, None]
        return self._weights(query, mask)[:, :, 0]

    def patterns(self) -> Tensor:
        """Attention weights of all query positions, float32 `[n_prompts, n_heads, n_tokens, n_tokens]`."""
        return self._weights(self.query, self.mask)

    def detached(self) -> QueryKeyCall:
        """Return the call detached from the graph of gradients."""
        return replace(
            self,
            query=self.query.detach(),
            key=self.key.detach(),
            value=self.value.detach(),
            sinks=None if self.sinks is None else self.sinks.detach(),
        )

    def score_by_keys(self, head: int) -> Tensor:
        """Return a scalar whose derivative by the keys is that of a head's scores, the query held fixed.

        The scores, capped where the model caps them, are those of the first prompt's last position with all
        it may see, summed. The call must have been seen where gradients are enabled.
        """
        key = self.key[0, head // (self.n_heads // self.key.shape[1])]
        mask = self.mask.expand(-1, self.n_heads, -1, -1)[0, head, -1]
        scores = key @ self.query[0, head, -1].detach() * self.scaling
        return capped(scores, self.soft_cap)[_visible(mask)].sum()

    def _weights(self, query: Tensor, mask: Tensor) -> Tensor:
        """Weights `[n_prompts, n_heads, n, n_tokens]` of queries `[n_prompts, n_heads, n, d_head]`."""
        n_prompts, n_kv_heads, _, d_head = self.key.shape
        grouped = query.float().reshape(n_prompts, n_kv_heads, -1, d_head)
        scores = (grouped @ self.key.float().transpose(2, 3)) * self.scaling
        scores = capped(scores.view(*query.shape[:3], -1), self.soft_cap) + mask.float()
        if self.sinks is None:
            return torch.softmax(scores, dim=-1)
        sinks = self.sinks.float()[:, None, None].expand(*scores.shape[:3], 1)
        return torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]


@dataclass(frozen=True, eq=False)
class WeightsCall:
    """Attention call with known weights, as they multiplied the values.

    Attributes:
        module, value: as of `QueryKeyCall`.
        weights: `[n_prompts, n_heads, n_tokens, n_tokens]`.
        scores: what softmax was given, of the same shape; None where no gradients are enabled.
        keys: what queries were multiplied with to give scores, in the layout of the model's own code;
            None where it was not seen or no gradients are enabled.
    """

    module: nn.Module
    value: Tensor
    weights: Tensor
    scores: Tensor | None = None
    keys: Tensor | None = None

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.weights.shape[1]

    def pattern(self, positions: Tensor) -> Tensor:
        """Attention weights of one query position per prompt, float32 `[n_prompts, n_heads, n_tokens]`."""
        prompts = torch.arange(len(positions), device=positions.device)
        return self.weights[prompts, :, positions].float()

    def patterns(self) -> Tensor:
        """Attention weights of all query positions, float32 `[n_prompts, n_heads, n_tokens, n_tokens]`."""
        return self.weights.float()

    def detached(self) -> WeightsCall:
        """Return the call detached from the graph of gradients, together with its scores and keys."""
        return WeightsCall(self.module, self.value.detach(), self.weights.detach())

    def score_by_keys(self, head: int) -> Tensor:
        """Return a scalar as `QueryKeyCall.score_by_keys`.

        Raises:
            UnsupportedModelError: the keys were not seen.
        """
        if self.scores is None or self.keys is None:
            raise UnsupportedModelError(
                f"{type(self.module).__name__} does not hand out its keys, so what they answer to in the "
                "stream cannot be told; attribute, ablate and trace do not need it"
            )
        row = self.scores[0, head, -1]
        (slopes,) = torch.autograd.grad(row[_visible(row)].sum(), self.keys, retain_graph=True)
        # Scores are linear in the keys: by them, the inner product has the same derivative.
        return (slopes * self.keys).sum()


AttentionCall = QueryKeyCall | WeightsCall


def _visible(scores: Tensor) -> Tensor:
    """Return the visible positions from a mask row or from masked scores, `[n_tokens]` bool."""
    return scores > scores.max() - MASKED_SCORE_DROP


# Functions by their names: each is there as a torch function, a method of tensors or an operator.
PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm"}
SOFTMAX = "softmax"
WHOLE_ATTENTION = "scaled_dot_product_attention"


def has_custom_attention(model: PreTrainedModel) -> bool:
    """Return whether a model's code calls no attention function through transformers' interface."""
    sources = {type(module).__module__ for module in modules_of(model)}
    return not any(hasattr(sys.modules.get(name), "ALL_ATTENTION_FUNCTIONS") for name in sources)


@contextmanager
def watched_custom_attention(model: nn.Module, observer: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Pass the attention calls of a model's modules to `observer` while the context lasts."""
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
    """Progress of the attention of a module that is running.

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
        """Return whether the last softmax returned one of these tensors."""
        return any(found is weights for found in tensors for weights in self.weights)


class _Watch(FunctionMode):
    """Torch function mode that follows the attention of the innermost running module."""

    def __init__(self, observer: Callable[[AttentionCall], None]) -> None:
        super().__init__()
        self._observer = observer
        self._running: list[_Running] = []

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Push the module before it runs (forward pre-hook)."""
        self._running.append(_Running(module, _tensors(args, kwargs)))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Pop the module after it ran (forward hook)."""
        self._running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function and record attention products and softmaxes."""
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
        """Split prompts and heads that the model's code keeps in one dimension."""
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
    """Build a call from the arguments of `scaled_dot_product_attention`."""
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
