"""Loaded models as callers give them: unwrapped where that changes nothing, else refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

import tokenizers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from mnemoscope.errors import OptionError, UnsupportedModelError
from mnemoscope.model.peft import unwrapped

SOURCES = "'demo', a hub id, a folder, a .gguf file or a loaded (model, tokenizer)"


def is_name(source: Any) -> TypeGuard[str | Path]:
    """Whether a source names a model, rather than being a loaded one.

    Raises:
        OptionError: it is neither a name nor a pair.
    """
    if isinstance(source, (str, Path)):
        if not str(source).strip():
            raise OptionError(f"the model's name is empty; give {SOURCES}")
        return True
    if isinstance(source, (tuple, list)):
        return False
    if isinstance(source, nn.Module):
        raise OptionError(
            f"{type(source).__name__} was given without its tokenizer; give both as (model, tokenizer)"
        )
    raise OptionError(f"no model opens from an object of type {type(source).__name__}; give {SOURCES}")


def loaded(source: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The transformers model and tokenizer of a pair, and the model's name.

    Args:
        source: a tuple or list. Of a compiled model, as `torch.compile` returns it, the model that it
            compiles comes back.

    Raises:
        OptionError: they are no loaded causal language model and tokenizer, in this order.
        UnsupportedModelError: modules are compiled in place, weights are absent, or its adapters do more than
            add low-rank matrices.
    """
    if len(source) != 2:
        raise OptionError(f"{len(source)} objects were given, not two; give (model, tokenizer)")
    model, tokenizer = source
    if isinstance(model, PreTrainedTokenizerBase) and isinstance(tokenizer, nn.Module):
        raise OptionError("the tokenizer was given before the model; give (model, tokenizer)")
    if _is_compiled(model):
        model = model._orig_mod
    _refuse_other_than_model(model)
    _refuse_other_than_tokenizer(tokenizer)
    _refuse_compiled(model)
    inner, name = unwrapped(model)
    return inner, tokenizer, name


def _refuse_other_than_model(model: Any) -> None:
    if isinstance(model, (str, Path)):
        raise OptionError(
            f"the model of the pair is a name, {str(model)!r}; give the name alone, which brings its "
            "tokenizer, or the loaded model"
        )
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise OptionError(f"{kind} is no loaded model; give (model, tokenizer), both loaded")
    if isinstance(getattr(model, "module", None), nn.Module):
        raise OptionError(f"the model is wrapped in {type(model).__name__}; give (model.module, tokenizer)")
    if not isinstance(model, PreTrainedModel) and not hasattr(model, "get_base_model"):
        raise OptionError(
            f"{type(model).__name__} is no model of transformers; give one that "
            "AutoModelForCausalLM.from_pretrained opened"
        )
    absent = [name for name, weight in model.named_parameters() if weight.device.type == "meta"]
    offloaded = any(hasattr(module, "_hf_hook") for module in model.modules())
    if absent and not offloaded:
        raise UnsupportedModelError(
            f"{len(absent)} weights of {type(model).__name__} lie on the meta device, so hold no numbers, "
            f"first {absent[0]}; load the checkpoint with from_pretrained"
        )


def _refuse_other_than_tokenizer(tokenizer: Any) -> None:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    if isinstance(tokenizer, tokenizers.Tokenizer):
        remedy = "give transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)"
    elif isinstance(tokenizer, ProcessorMixin):
        remedy = "give (model, processor.tokenizer)"
    else:
        remedy = "give the one that AutoTokenizer.from_pretrained opens for this model"
    kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}".removeprefix("builtins.")
    raise OptionError(f"the tokenizer of the pair is a {kind}, not one of transformers; {remedy}")


def _refuse_compiled(model: Any) -> None:
    """Refuse modules that are compiled in place, whose hooks do not run."""
    for name, module in model.named_modules():
        in_place = getattr(module, "_compiled_call_impl", None) is not None
        forward = hasattr(module.forward, "_torchdynamo_orig_callable")
        if in_place or forward or _is_compiled(module):
            what = f"{name or 'the model'} ({type(module).__name__})"
            raise UnsupportedModelError(
                f"{what} is compiled in place, so nothing inside can be watched; load the model anew and "
                "give it before compile(), or give torch.compile(model), which leaves the model as it was"
            )


def _is_compiled(model: Any) -> bool:
    """Whether `torch.compile` wrapped a module; told without importing the compiler, which takes seconds."""
    return isinstance(model, nn.Module) and "_orig_mod" in model._modules
