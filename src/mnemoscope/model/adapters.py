"""PEFT adapters: opened from files and merged into their base, or found unmerged in a loaded model."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mnemoscope.errors import MnemoscopeError, ModelFileError, UnknownModelError, UnsupportedModelError
from mnemoscope.installing import missing_extra
from mnemoscope.model.matrix import is_adapted
from mnemoscope.model.places import (
    ADAPTER_CONFIG,
    PICKLES,
    WEIGHTS,
    WEIGHTS_INDEX,
    Place,
    check_tensors,
    find,
)

ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An adapter's files.

    Attributes:
        place: where they are.
        base: where the model is that it was made for.
    """

    place: Place
    base: Place


def find_adapter(place: Place) -> Adapter | None:
    """The adapter at a place; None where there is none.

    Raises:
        UnsupportedModelError: `peft` is not installed, or the base is an adapter itself.
        ModelFileError: its config is damaged, or a whole model lies beside it.
        UnknownModelError: its base cannot be found from here.
    """
    config = None if place.gguf_file else place.file(ADAPTER_CONFIG)
    if config is None:
        return None
    if importlib.util.find_spec("peft") is None:
        raise UnsupportedModelError(missing_extra(f"the adapter {place.name}", "peft"))
    if place.file(WEIGHTS) or place.file(WEIGHTS_INDEX):
        raise ModelFileError(
            f"{place.name} holds both a whole model and an adapter ({ADAPTER_CONFIG}), so which is meant "
            "cannot be told; move the adapter's files to a folder of their own"
        )
    base = _base(place, config)
    if base.gguf_file is None and base.file(ADAPTER_CONFIG):
        raise UnsupportedModelError(
            f"the base of the adapter {place.name} is the adapter {base.name}; merge that into its own base "
            "with peft's merge_and_unload, save it, and name the saved model as the base"
        )
    return Adapter(place, base)


def _base(place: Place, config: Path) -> Place:
    try:
        said = json.loads(config.read_bytes())
        name, revision = said["base_model_name_or_path"], said.get("revision")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{config} is no config of an adapter ({error}); copy or download it again"
        ) from error
    remedy = (
        f"write where it is as base_model_name_or_path into {config}, or load both yourself and give "
        "(peft_model, tokenizer)"
    )
    if not name:
        raise UnknownModelError(f"the adapter {place.name} does not say which model it is for; {remedy}")
    try:
        return find(name, revision)
    except MnemoscopeError as error:
        reason = str(error).partition(";")[0]
        raise UnknownModelError(
            f"the base of the adapter {place.name}, {name!r}, cannot be opened ({reason}); {remedy}"
        ) from error


def merge(adapter: Adapter, model: PreTrainedModel) -> PreTrainedModel:
    """The base with an adapter's weights added to its own, in the base's type of weights.

    Raises:
        UnsupportedModelError: the adapter is of a kind that cannot be merged.
        ModelFileError: its weights are missing, damaged, pickles, or do not fit the base.
    """
    import peft
    from safetensors.torch import load_file

    path = _adapter_weights(adapter.place)
    with _peft_errors(adapter):
        config = peft.PeftConfig.from_pretrained(str(path.parent))
        if config.is_prompt_learning or config.peft_type not in peft.PEFT_TYPE_TO_TUNER_MAPPING:
            raise _not_mergeable(adapter.place.name, config)
        adapted: Any = peft.get_peft_model(model, config)
        weights = load_file(path)
        expected = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
        unused = peft.set_peft_model_state_dict(adapted, weights).unexpected_keys
        if wrong := [*sorted(expected - set(weights)), *unused]:
            raise ModelFileError(
                f"the adapter {adapter.place.name} does not fit {adapter.base.name}: {len(wrong)} of its "
                f"tensors have no counterpart, first {wrong[0]}; name its own base in {ADAPTER_CONFIG}"
            )
        try:
            return adapted.merge_and_unload(safe_merge=True)
        except (AttributeError, NotImplementedError) as error:
            raise _not_mergeable(adapter.place.name, config) from error


def _adapter_weights(place: Place) -> Path:
    path = place.file(ADAPTER_WEIGHTS)
    if path is not None:
        check_tensors(path)
        return path
    pickles = [] if place.folder is None else [p.name for kind in PICKLES for p in place.folder.glob(kind)]
    raise ModelFileError(
        f"the adapter {place.name} has no {ADAPTER_WEIGHTS}"
        + (f", only a pickle ({min(pickles)}), which can run code when opened" if pickles else "")
        + "; save it with peft's save_pretrained and open that"
    )


def _not_mergeable(name: str, config: Any) -> UnsupportedModelError:
    kind = getattr(config.peft_type, "value", config.peft_type)
    return UnsupportedModelError(
        f"{name} is an adapter of the kind {kind}, which cannot be merged into the weights of its base, so "
        "its parts cannot be told from the base's; use one that can, such as LoRA"
    )


@contextmanager
def _peft_errors(adapter: Adapter) -> Iterator[None]:
    """What peft raises, in one line; its warnings, and the random state of torch, are left out of it."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    except MnemoscopeError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"the adapter {adapter.place.name} cannot be put on {adapter.base.name} "
            f"({type(error).__name__}: {reason}); check that this is its base, and its files"
        ) from error


def unwrapped(model: Any) -> tuple[PreTrainedModel, str]:
    """The transformers model in a loaded one, which holds its adapters' layers, and what to call it.

    Raises:
        UnsupportedModelError: its adapters do more than add low-rank matrices, so its parts are not found.
    """
    adapters = sorted({name for layer in _adapted_layers(model) for name in layer.active_adapters})
    peft: Any = sys.modules.get("peft")
    if peft is not None and isinstance(model, (peft.PeftModel, peft.PeftMixedModel)):
        config = model.peft_config[next(iter(model.peft_config))]
        if config.is_prompt_learning:
            raise _not_mergeable(type(model).__name__, config)
        model = model.get_base_model()
    _refuse_other_layers(model)
    name = model.config.name_or_path or type(model).__name__
    return model, f"{', '.join(adapters)} on {name}" if adapters else name


def _refuse_other_layers(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if not _is_layer(module):
            continue
        embeds = type(module).__name__ == "Embedding" and not module.lora_variant
        if module is head or not (is_adapted(module) or embeds):
            what = "changes the head" if module is head else "does more than add a low-rank matrix"
            raise UnsupportedModelError(
                f"the adapter layer {name} ({type(module).__module__}.{type(module).__name__}) {what}; give "
                "the merged model: (peft_model.merge_and_unload(), tokenizer)"
            )


def _adapted_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if _is_layer(module)]


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a layer of an adapter; there are none where peft was never imported."""
    tuners: Any = sys.modules.get("peft.tuners.tuners_utils")
    return tuners is not None and isinstance(module, tuners.BaseTunerLayer)


def merge_layers(model: PreTrainedModel) -> None:
    """Merge all adapters that a model has in place, and put plain layers where theirs were."""
    if not _adapted_layers(model):
        return
    from peft.utils.other import AuxiliaryTrainingWrapper

    found: list[tuple[str, Any]] = [
        (name, module)
        for name, module in model.named_modules()
        if _is_layer(module) or isinstance(module, AuxiliaryTrainingWrapper)
    ]
    for name, module in found:
        if _is_layer(module):
            module.merge(safe_merge=True)
            plain = module.get_base_layer()
        else:
            plain = module.unload_and_optionally_merge_module(True, safe_merge=True, adapter_names=None)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    # What transformers would save the adapters alone by.
    model._hf_peft_config_loaded = False
    if hasattr(model, "peft_config"):
        del model.peft_config
