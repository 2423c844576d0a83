"""PEFT adapters: merging them into their base, and checks of unmerged ones in loaded models."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mnemoscope._arguments import ADAPTER_CONFIG
from mnemoscope.errors import (
    MnemoscopeError,
    ModelFileError,
    UnknownModelError,
    UnsupportedModelError,
    missing_extra,
)
from mnemoscope.model.hooks import evaluation_mode
from mnemoscope.model.sources import PICKLES, WEIGHTS, WEIGHTS_INDEX, Location, check_tensors, find
from mnemoscope.model.tolerances import SUMS, logit_error
from mnemoscope.model.validation import probe_tokens
from mnemoscope.model.weights import get_weight, is_adapted

ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """Adapter in files.

    Attributes:
        location: location of its files.
        base: location of the model that it was trained on.
    """

    location: Location
    base: Location


def find_adapter(location: Location) -> Adapter | None:
    """Return the adapter at a location; None if the location has none.

    Raises:
        UnsupportedModelError: `peft` is not installed, or the base is an adapter itself.
        ModelFileError: the adapter's config is damaged, or a whole model lies beside it.
        UnknownModelError: the base cannot be found.
    """
    config = None if location.gguf_file else location.file(ADAPTER_CONFIG)
    if config is None:
        return None
    if importlib.util.find_spec("peft") is None:
        raise UnsupportedModelError(missing_extra(f"the adapter {location.name}", "peft"))
    if location.file(WEIGHTS) or location.file(WEIGHTS_INDEX):
        raise ModelFileError(
            f"{location.name} holds both a whole model and an adapter ({ADAPTER_CONFIG}), so it is not "
            "clear which to open; move the adapter's files to a folder of their own"
        )
    base = _base(location, config)
    if base.gguf_file is None and base.file(ADAPTER_CONFIG):
        raise UnsupportedModelError(
            f"the base of the adapter {location.name} is the adapter {base.name}; merge that into its own "
            "base with peft's merge_and_unload, save it, and name the saved model as the base"
        )
    return Adapter(location, base)


def _base(location: Location, config: Path) -> Location:
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
        raise UnknownModelError(f"the adapter {location.name} does not say which model it is for; {remedy}")
    try:
        return find(name, revision)
    except MnemoscopeError as error:
        reason = str(error).partition(";")[0]
        raise UnknownModelError(
            f"the base of the adapter {location.name}, {name!r}, cannot be opened ({reason}); {remedy}"
        ) from error


def merge(adapter: Adapter, model: PreTrainedModel) -> PreTrainedModel:
    """Add an adapter's weights to those of its base, in the base's type of weights.

    Raises:
        UnsupportedModelError: the adapter is of a kind that cannot be merged.
        ModelFileError: the adapter's weights are missing, damaged, pickles, or do not fit the base.
    """
    import peft
    from safetensors.torch import load_file

    path = _adapter_weights(adapter.location)
    with _peft_errors(adapter):
        config = peft.PeftConfig.from_pretrained(str(path.parent))
        if config.is_prompt_learning or config.peft_type not in peft.PEFT_TYPE_TO_TUNER_MAPPING:
            raise _not_mergeable(adapter.location.name, config)
        weights = load_file(path)
        _resize(adapter, config, model, weights)
        probe = probe_tokens(model)
        adapted: Any = peft.get_peft_model(model, config)
        expected = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
        unused = peft.set_peft_model_state_dict(adapted, dict(weights)).unexpected_keys
        # Beside resized embeddings peft writes their trained rows a second time.
        unused = [name for name in unused if not _is_repeated(weights, name)]
        if wrong := [*sorted(expected - set(weights)), *unused]:
            raise ModelFileError(
                f"the adapter {adapter.location.name} does not fit {adapter.base.name}: {len(wrong)} of its "
                f"tensors have no counterpart, first {wrong[0]}; name its own base in {ADAPTER_CONFIG}"
            )
        before = _logits(adapted, probe)
        _untie(adapted)
        try:
            merged = adapted.merge_and_unload(safe_merge=True)
        except (AttributeError, NotImplementedError) as error:
            raise _not_mergeable(adapter.location.name, config) from error
        except RuntimeError as error:
            raise UnsupportedModelError(
                f"the adapter {adapter.location.name} cannot be merged into the weights of "
                f"{adapter.base.name} ({_reason(error)}); give both unmerged as (peft_model, tokenizer), or "
                "train it without"
            ) from error
    _refuse_changed(f"the adapter {adapter.location.name}", merged, before, _logits(merged, probe))
    return merged


def _is_repeated(weights: Mapping[str, Tensor], name: str) -> bool:
    others = (tensor for other, tensor in weights.items() if other != name)
    return name in weights and any(torch.equal(weights[name], tensor) for tensor in others)


def _logits(model: nn.Module, probe: Tensor) -> Tensor:
    """Return a model's logits `[n_tokens, n_vocabulary]` on token ids `[1, n_tokens]`, in evaluation mode."""
    with torch.no_grad(), evaluation_mode(model):
        return model(input_ids=probe, use_cache=False).logits[0]


def _untie(model: nn.Module) -> None:
    """Copy the weights of adapters' base layers that another module shares.

    Merging adds to the weights in place: an adapter of the head alone would change tied embeddings too.
    """
    for base, name, weight in _tied_layers(model):
        setattr(base, name, nn.Parameter(weight.detach().clone(), weight.requires_grad))


def _tied_layers(model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Return the base layers of adapters that share a parameter with another module, its name, and itself."""
    owners = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
    bases = [layer.get_base_layer() for layer in _adapted_layers(model)]
    parameters = ((base, *named) for base in bases for named in base.named_parameters(recurse=False))
    return [(base, name, weight) for base, name, weight in parameters if owners[id(weight)] > 1]


def _refuse_changed(what: str, model: PreTrainedModel, before: Tensor, after: Tensor) -> None:
    """Refuse a merged model whose logits are not those of the adapter on its base.

    Also records in the config that the embeddings are not tied, where merging untied them.

    Raises:
        UnsupportedModelError: the logits differ by more than rounding.
    """
    error, tolerance = logit_error(after, before), SUMS.of(model.dtype)
    if not error <= tolerance:
        raise UnsupportedModelError(
            f"{what} gives other logits merged than on its base (off by {error:.2g}, allowed {tolerance:g}), "
            "so it cannot be opened merged; use an adapter that peft merges exactly, such as LoRA of the "
            "layers between embeddings and head"
        )
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    if head is not None and get_weight(head) is not get_weight(model.get_input_embeddings()):
        model.config.tie_word_embeddings = config.tie_word_embeddings = False


def _resize(adapter: Adapter, config: Any, model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Resize the embeddings and head of a base to the vocabulary that an adapter was trained on.

    The rows themselves are loaded later, from the adapter's files.

    Raises:
        ModelFileError: the files do not hold the rows of both.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    n_base = get_weight(embeddings).shape[0]
    names = [name for name, module in model.named_modules() if module is embeddings or module is head]
    held = {_n_tokens(weights, name, stored=True) for name in names}
    trained = {_n_tokens(weights, name, stored=False) for name in names}
    highest = max(_trained_tokens(config), default=0) + 1
    n_tokens = next((n for n in held | trained if n not in (None, n_base)), max(n_base, highest))
    if n_tokens == n_base:
        return
    # A module that is trained whole is a copy, without the rows of the weights that it was tied to.
    copied = {name.rpartition(".")[2] for name in names} & set(getattr(config, "modules_to_save", None) or ())
    one = head is None or get_weight(head) is get_weight(embeddings)
    one = one and (not copied or getattr(config, "ensure_weight_tying", False))
    if n_tokens not in held or (not one and held != {n_tokens}):
        raise ModelFileError(
            f"the adapter {adapter.location.name} was trained on a base whose {n_base:,} tokens were made "
            f"{n_tokens:,}, and its files lack rows of {' or '.join(names)} for the others; save the resized "
            f"base beside it and name that as base_model_name_or_path in {ADAPTER_CONFIG}"
        )
    model.resize_token_embeddings(n_tokens, mean_resizing=False)


def _trained_tokens(config: Any) -> set[int]:
    """Return the ids of single tokens whose embeddings an adapter trains."""
    chosen = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or ()
    lists = chosen.values() if isinstance(chosen, dict) else [chosen]
    return {token for tokens in lists for token in tokens}


def _n_tokens(weights: Mapping[str, Tensor], name: str, *, stored: bool) -> int | None:
    """Return the vocabulary size that tensors of embeddings or head have: stored whole, or low-rank ones."""
    for key, tensor in weights.items():
        _, found, kind = key.partition(f".{name}.")
        if not found:
            continue
        if "lora_" not in kind and kind.endswith("weight") and tensor.ndim == 2 and stored:
            return tensor.shape[0]
        if "lora_embedding_A" in kind and not stored:
            return tensor.shape[1]
        if "lora_B" in kind and not stored:
            return tensor.shape[0]
    return None


def _adapter_weights(location: Location) -> Path:
    path = location.file(ADAPTER_WEIGHTS)
    if path is not None:
        check_tensors(path)
        return path
    folder = location.folder
    pickles = [p.name for kind in PICKLES for p in folder.glob(kind)] if folder else []
    raise ModelFileError(
        f"the adapter {location.name} has no {ADAPTER_WEIGHTS}"
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
    """Raise the errors of peft as a ModelFileError of one line; silence warnings, keep the random state."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    except MnemoscopeError:
        raise
    except Exception as error:
        raise ModelFileError(
            f"the adapter {adapter.location.name} cannot be put on {adapter.base.name} "
            f"({type(error).__name__}: {_reason(error)}); check that this is its base, and its files"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def unwrapped(model: Any) -> tuple[PreTrainedModel, str]:
    """Return the transformers model in a loaded one, with its adapters' layers, and a name for both.

    Raises:
        UnsupportedModelError: the adapters do more than add low-rank matrices.
    """
    adapters = sorted({name for layer in _adapted_layers(model) for name in layer.active_adapters})
    peft: Any = sys.modules.get("peft")
    if peft is not None and isinstance(model, (peft.PeftModel, peft.PeftMixedModel)):
        config = model.peft_config[next(iter(model.peft_config))]
        if config.is_prompt_learning:
            raise _not_mergeable(type(model).__name__, config)
        model = model.get_base_model()
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if not is_adapter_layer(module):
            continue
        embeds = type(module).__name__ == "Embedding" and not module.lora_variant
        if module is head or not (is_adapted(module) or embeds):
            what = "changes the head" if module is head else "does more than add a low-rank matrix"
            # peft merges an adapter of tied weights into embeddings and head alike.
            remedy = (
                "save it (peft_model.save_pretrained) and open that folder, which is merged right"
                if _tied_layers(model)
                else "give the merged model: (peft_model.merge_and_unload(), tokenizer)"
            )
            kind = f"{type(module).__module__}.{type(module).__name__}"
            raise UnsupportedModelError(f"the adapter layer {name} ({kind}) {what}; {remedy}")
    name = model.config.name_or_path or type(model).__name__
    return model, f"{', '.join(adapters)} on {name}" if adapters else name


def _adapted_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if is_adapter_layer(module)]


def is_adapter_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer of an adapter; False where peft was never imported."""
    tuners: Any = sys.modules.get("peft.tuners.tuners_utils")
    return tuners is not None and isinstance(module, tuners.BaseTunerLayer)


def merge_layers(model: PreTrainedModel) -> None:
    """Merge all adapters of a model in place, and replace their layers by plain ones.

    Raises:
        UnsupportedModelError: the merged model gives other logits.
    """
    if not _adapted_layers(model):
        return
    from peft.utils.other import AuxiliaryTrainingWrapper

    probe = probe_tokens(model)
    before = _logits(model, probe)
    _untie(model)
    found: list[tuple[str, Any]] = [
        (name, module)
        for name, module in model.named_modules()
        if is_adapter_layer(module) or isinstance(module, AuxiliaryTrainingWrapper)
    ]
    for name, module in found:
        if is_adapter_layer(module):
            module.merge(safe_merge=True)
            plain = module.get_base_layer()
        else:
            plain = module.unload_and_optionally_merge_module(True, safe_merge=True, adapter_names=None)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    # With this flag transformers would save the adapters alone.
    model._hf_peft_config_loaded = False
    if hasattr(model, "peft_config"):
        del model.peft_config
    _refuse_changed(f"the adapter on {type(model).__name__}", model, before, _logits(model, probe))
