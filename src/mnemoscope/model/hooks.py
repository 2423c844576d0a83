"""Hooks on a running model, which leave nothing behind: attention, rotary factors, evaluation mode."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.moe import ExpertsInterface

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.attention import (
    AttentionCall,
    QueryKeyCall,
    has_custom_attention,
    watched_custom_attention,
)
from mnemoscope.model.experts import REGISTERED_NAME, run_mixture, running_mixtures
from mnemoscope.model.isolation import Hold, held, modules_of
from mnemoscope.model.weights import input_device


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch every module of a model to evaluation mode while the context lasts."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


# Attributes of rotary modules in transformers: the longest prompt seen so far, and the frequencies they began
# with. The names of sorts of layers stand before both where each sort has frequencies of its own.
LONGEST = "max_seq_len_cached"
ORIGINAL = "original_inv_freq"


@contextmanager
def fresh_rotary_factors(model: PreTrainedModel) -> Iterator[None]:
    """Run a model as if it had seen no prompt yet while the context lasts.

    Dynamic NTK scaling keeps the frequencies of the longest prompt so far: after one of 40 tokens, one of 30
    would get the factors of 40. Afterwards the modules have again what they had.
    """
    kept = [
        (module, name, getattr(module, name), getattr(module, name.replace(LONGEST, "inv_freq")))
        for module, name in _dynamic(model)
    ]
    try:
        for module, name, *_ in kept:
            original = getattr(module, name.replace(LONGEST, ORIGINAL))
            _set(module, name, module.original_max_seq_len, original.clone())
        yield
    finally:
        for each in kept:
            _set(*each)


def _dynamic(model: PreTrainedModel) -> list[tuple[Any, str]]:
    """Find the rotary modules with dynamic scaling, and where each keeps the longest prompt."""
    return [
        (module, name)
        for module in modules_of(model)
        if "dynamic" in str(vars(module).get("rope_type", ""))
        for name in vars(module)
        if name.endswith(LONGEST) and hasattr(module, name.replace(LONGEST, ORIGINAL))
    ]


def _set(module: Any, name: str, longest: Any, frequencies: Any) -> None:
    setattr(module, name, longest)
    buffer = name.replace(LONGEST, "inv_freq")
    here = frequencies.to(getattr(module, buffer).device)
    module.register_buffer(buffer, here, persistent=False)


_observer: ContextVar[Callable[[AttentionCall], None]] = ContextVar("attention observer")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention as usual and pass its arguments to the observer.

    A soft-cap of the scores and sinks (`s_aux`) are unknown to sdpa; with either, the eager attention of the
    module's own family is called.
    """
    if attention_mask is None:
        raise RuntimeError("the attention mask is missing, so attention would not be causal")
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    cap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    usual = AttentionInterface()["sdpa"]
    if cap is not None or sinks is not None:
        usual = _eager(module)
        if attention_mask.dtype == torch.float64:
            # Its softmax goes through float32, where a row that sees nothing would be all minus infinity.
            attention_mask = attention_mask.clamp_min(torch.finfo(torch.float32).min)
    output, _ = usual(module, query, key, value, attention_mask, scaling=factor, **kwargs)
    _observer.get()(QueryKeyCall(module, value, query, key, attention_mask, factor, cap, sinks))
    return output, None


def _eager(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    """Compute attention with explicit weights, as a module's source file defines it."""
    source = sys.modules[type(module).__module__]
    if not hasattr(source, "eager_attention_forward"):
        raise UnsupportedModelError(
            f"{type(module).__name__} has a soft-cap or sinks and no eager attention of its own that would "
            "compute them; see `mnemoscope models` for the supported families"
        )
    return source.eager_attention_forward


def register_functions() -> None:
    """Register the package's attention, mask and experts functions with transformers; idempotent.

    Without a mask function under the same name transformers passes no mask, and every token silently sees the
    later ones.
    """
    AttentionInterface.register(REGISTERED_NAME, _attention)
    AttentionMaskInterface.register(REGISTERED_NAME, AttentionMaskInterface()["eager"])
    ExpertsInterface.register(REGISTERED_NAME, run_mixture)


@contextmanager
def observed_attention(
    model: PreTrainedModel, observer: Callable[[AttentionCall], None], *, runs: bool = True
) -> Iterator[None]:
    """Pass every attention call to `observer` while the context lasts, in evaluation mode.

    Models that call attention functions through transformers' interface call ours; those whose code
    computes attention itself keep their implementation and are watched.

    Args:
        model: the model.
        observer: called with each attention call.
        runs: False only prepares for passes that contexts within this one run.
    """
    with evaluating(model, runs=runs) as hold:
        if has_custom_attention(model):
            with watched_custom_attention(model, observer):
                yield
            return
        token = _observer.set(observer)
        try:
            hold.set_implementation("_attn_implementation", REGISTERED_NAME)
            yield
        finally:
            _observer.reset(token)


def running_alike(model: PreTrainedModel, *, runs: bool = True) -> AbstractContextManager[object]:
    """Run a model as captures run it, so that half precision rounds alike; evaluation mode meanwhile.

    Args:
        model: the model.
        runs: as for `observed_attention`.
    """
    if has_custom_attention(model):
        return evaluating(model, runs=runs)
    return observed_attention(model, lambda call: None, runs=runs)


@contextmanager
def evaluating(model: PreTrainedModel, *, runs: bool = True) -> Iterator[Hold]:
    """Switch to evaluation mode while the context lasts, then restore each module's own mode.

    Mixtures of experts run in place of the model's own code for experts, and rotary factors are those of the
    prompt alone. No other thread uses the model.

    Args:
        model: the model.
        runs: as for `observed_attention`.
    """
    with held(model, runs=runs) as hold, running_mixtures(model), fresh_rotary_factors(model):
        training = [module for module in modules_of(model) if module.training]
        hold.undo += [partial(setattr, module, "training", True) for module in training]
        for module in training:
            module.training = False
        yield hold


def run_body(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
    """Run prompts of one length up to the final norm, without logits and cache, for what hooks record."""
    tokens = torch.tensor([list(ids) for ids in prompts], device=input_device(model))
    model.base_model(input_ids=tokens, use_cache=False)


def hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the residual stream among a block's arguments."""
    return args[0] if args else kwargs["hidden_states"]


def without_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a block's positional and named arguments other than the residual stream."""
    return args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}


def first_tensor(output: Any) -> Tensor:
    """Return the first tensor of a module's output, which may be a tuple."""
    return output[0] if isinstance(output, tuple) else output
