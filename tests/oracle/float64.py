"""A forward pass in float64 throughout, and the attention products seen in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_NARROW = (torch.float32, torch.bfloat16, torch.float16)
_PRODUCTS = {"matmul", "bmm", "__matmul__"}


class InFloat64(TorchFunctionMode):
    """Replace every narrower float type that a model's code names, and keep the latest attention product.

    transformers computes norms, softmax and rotary factors in float32 whatever the weights are.

    Attributes:
        pattern: the latest square left factor of a product, `[..., n_heads, n_tokens, n_tokens]`.
        values: its right factor, `[..., n_heads, n_tokens, d_head]`.
    """

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self._n_tokens = n_tokens
        self.pattern = self.values = torch.empty(0, dtype=torch.float64)

    def __enter__(self) -> InFloat64:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.set_default_dtype(self._default)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        named = {name: _widened(value) for name, value in (kwargs or {}).items()}
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.pattern, self.values = _pattern(*args[:2], **named), args[2]
            return self.pattern @ self.values
        result = func(*(_widened(value) for value in args), **named)
        if getattr(func, "__name__", "") in _PRODUCTS and args[0].shape[-2:] == (
            self._n_tokens,
            self._n_tokens,
        ):
            self.pattern, self.values = args[0], args[1]
        return result


def _pattern(
    query: Tensor, key: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **_: Any
) -> Tensor:
    """Attention weights as torch's fused function computes them inside."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


def _widened(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


def in_float64(model: nn.Module) -> Any:
    """Copy a model, cast to float64, with transformers' own attention and experts in plain code."""
    copied: Any = copy.deepcopy(model).double().eval()
    # Falcon's eager code adds ALiBi twice, so its default is taken, the fused function.
    if copied.config.model_type != "falcon":
        copied.set_attn_implementation("eager")
    copied.config._experts_implementation = "eager"
    return copied
