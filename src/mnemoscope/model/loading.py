"""Opening a model by name, folder, file or as an object."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from mnemoscope._arguments import AUTO, device_name, dtype_name
from mnemoscope.errors import MnemoscopeError, ModelFileError, OptionError, UnsupportedModelError
from mnemoscope.model.families import added_families, structure_of
from mnemoscope.model.gguf_cache import kept
from mnemoscope.model.gguf_conversion import correct_tokenizer, parsed_once, read_converted_tokenizer
from mnemoscope.model.isolation import held
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.loaded import is_name, loaded
from mnemoscope.model.peft import find_adapter, merge
from mnemoscope.model.sources import Location, check_weights, find
from mnemoscope.model.tokens import check_tokenizer
from mnemoscope.model.torch_state import ProcessSettings, Setting, default_torch_state
from mnemoscope.model.validation import require, validate

Source = str | Path | tuple[nn.Module, PreTrainedTokenizerBase]
# Each of the ways that a tokenizer is stored has one of these.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)


@dataclass(frozen=True)
class _Read:
    """A model as read from its files; the attributes are those of `LanguageModel`."""

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Way:
    """How files are to be read: in which type of weights, where to, and whether to run code beside them."""

    dtype: str | None
    trust_remote_code: bool
    spread: bool


def open_model(
    source: Source,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Open and validate a model; `mnemoscope.load` documents the arguments and errors."""
    found = examine(
        source, revision=revision, dtype=dtype, device=device, trust_remote_code=trust_remote_code
    )
    require(found.proof, found.model)
    return found


@default_torch_state()
def examine(
    source: Source,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """As `open_model`, but a model whose parts do not add up comes back too, to see which sum failed."""
    dtype, device = dtype_name(dtype), device_name(device)
    named = is_name(source)
    _refuse_useless(source, revision=revision, dtype=dtype, device=device)
    if not named:
        model, tokenizer, name = loaded(source)
        return _examined(_Read(name, "in memory", model, tokenizer))
    with quiet():
        read = _read(find(source, revision), _Way(dtype, trust_remote_code, device == AUTO))
    if device != AUTO:
        with _device_errors(device):
            read.model.to(torch.device(device or "cpu"))  # pyright: ignore[reportArgumentType]
    read.model.eval()
    return _examined(read)


@dataclass(frozen=True)
class Described:
    """A model without its weights.

    Attributes:
        name: what it was named by.
        config: as transformers reads it; of an adapter that of its base.
        tokenizer: its tokenizer.
        dtype: the type in which its weights would be opened.
    """

    name: str
    config: Any
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype


def describe(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Described:
    """What can be told of a model from its small files; raises as `open_model` does."""
    dtype = dtype_name(dtype)
    _refuse_useless(source, revision=revision)
    way = _Way(dtype, trust_remote_code, spread=False)
    with quiet(), contextlib.ExitStack() as stack:
        place = find(source, revision)
        adapter = find_adapter(place)
        base = stack.enter_context(_opening(place if adapter is None else adapter.base, make=False))
        config = _config(base, way)
        tokenizer = _tokenizer(base if adapter is None or not _has_tokenizer(place) else place, config, way)
    stored = config.get_text_config().dtype
    usual = torch.float32 if base.gguf_file or stored is None else stored
    return Described(place.name, config, tokenizer, getattr(torch, dtype) if dtype else usual)


def _refuse_useless(source: Source, **options: str | None) -> None:
    """Refuse options that would change nothing: any for a loaded model, a revision for what is no repository.

    Raises:
        OptionError: one is given.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(source, str | Path):
        for name, value in given.items():
            raise OptionError(
                f"{name} is {value!r}, but a loaded model is taken as it is; leave {name} out, and load it "
                "with transformers as you want it"
            )
    elif "revision" in given and (source == "demo" or Path(source).expanduser().exists()):
        raise OptionError(
            f"revision is {given['revision']!r}, but {source} is no repository of the hub; leave it out"
        )


def _examined(read: _Read) -> LanguageModel:
    _refuse_kind(read.model.config)
    _refuse_inference_tensors(read.name, read.model)
    if read.model.get_output_embeddings() is None:
        raise UnsupportedModelError(
            f"{type(read.model).__name__} has no head that predicts tokens; open the checkpoint with "
            "AutoModelForCausalLM.from_pretrained"
        )
    check_tokenizer(read.name, read.model, read.tokenizer)
    with held(read.model):
        structure = structure_of(read.model)
        validation = validate(read.model, structure)
    return LanguageModel(read.name, read.revision, read.model, read.tokenizer, structure, validation)


def _read(place: Location, way: _Way) -> _Read:
    adapter = find_adapter(place)
    if adapter is None:
        return _read_model(place, way)
    if way.spread:
        raise OptionError(
            f"{place.name} is an adapter, whose base cannot be spread over devices before they are merged; "
            "name one device, or merge it with peft, save that, and open the merged model"
        )
    base = _read(adapter.base, way)
    model = merge(adapter, base.model)
    tokenizer = _tokenizer(place, model.config, way) if _has_tokenizer(place) else base.tokenizer
    return _Read(f"{place.name} on {base.name}", f"{place.digest} on {base.revision}", model, tokenizer)


def _read_model(place: Location, way: _Way) -> _Read:
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_opening(place))
        config = _config(place, way)
        if place.gguf is None:
            check_weights(place)
        tokenizer = _tokenizer(place, config, way)
        read = _Read(place.name, place.digest, _model(place, config, way), tokenizer)
        if way.spread and place.gguf is None:
            # Layers that are offloaded to disk are read from these files as long as the model lives.
            weakref.finalize(read.model, stack.pop_all().close)
    return read


@contextlib.contextmanager
def _opening(place: Location, *, make: bool = True) -> Iterator[Location]:
    """Give the place whose files are opened: a GGUF file's conversion, or the file where none is kept."""
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(kept(place, make=make))
        if opened.gguf is not None:
            stack.enter_context(parsed_once())
        yield opened


def _config(place: Location, way: _Way) -> Any:
    added_families()  # whose packages register what transformers does not have
    with _file_errors(place, "config"):
        config = AutoConfig.from_pretrained(
            place.path, trust_remote_code=way.trust_remote_code, **place.arguments
        )
    _refuse_kind(config)
    return config


def _has_tokenizer(place: Location) -> bool:
    return place.gguf_file is not None or any(place.file(name) for name in TOKENIZER_FILES)


def _tokenizer(place: Location, config: Any, way: _Way) -> PreTrainedTokenizerBase:
    if not _has_tokenizer(place):
        raise ModelFileError(
            f"{place.name} has no tokenizer; copy that of the model it was made from there "
            "(tokenizer.json and tokenizer_config.json), or give (model, tokenizer)"
        )
    with _file_errors(place, "tokenizer"):
        if place.converted_from is not None:
            return read_converted_tokenizer(place.path)
        tokenizer = AutoTokenizer.from_pretrained(
            place.path, trust_remote_code=way.trust_remote_code, **place.arguments
        )
        if place.gguf is not None:
            correct_tokenizer(place.gguf, tokenizer, config)
        return tokenizer


def _model(place: Location, config: Any, way: _Way) -> PreTrainedModel:
    usual = torch.float32 if place.gguf_file else "auto"
    sees = not _is_causal(config) and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    with _file_errors(place, "weights"):
        opened: Any = kind.from_pretrained(
            place.path,
            dtype=getattr(torch, way.dtype) if way.dtype else usual,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=way.trust_remote_code,
            device_map=AUTO if way.spread else None,
            # It looks for an adapter too; there is none, and without the hub it would try for long.
            adapter_kwargs={"local_files_only": True},
            **place.arguments,
        )
    model, told = opened
    # transformers draws what is missing or does not fit at random, and says so in a warning alone.
    for name, found, wanted in sorted(told["mismatched_keys"]):
        raise ModelFileError(
            f"the tensor {name} in the weights of {place.name} has the shape {tuple(found)}, but its config "
            f"asks for {tuple(wanted)}; put the config and the weights of one model there"
        )
    if missing := sorted(told["missing_keys"]):
        raise ModelFileError(
            f"the weights of {place.name} lack {len(missing)} of the tensors of a {config.model_type} model, "
            f"first {missing[0]}; copy the whole checkpoint, saved as a causal language model"
        )
    return model


def _refuse_kind(config: Any) -> None:
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{kind} is an encoder-decoder model; use a decoder-only model such as GPT-2 or Llama"
        )
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise UnsupportedModelError(
            f"{kind} is an encoder-only model, which predicts masked tokens and not the next one; "
            "use a decoder-only model such as GPT-2 or Llama"
        )
    known = _is_causal(config) or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if not known and not hasattr(config, "auto_map"):
        raise UnsupportedModelError(
            f"{kind} has no causal language model in transformers; "
            "use a decoder-only model such as GPT-2 or Llama"
        )


def _is_causal(config: Any) -> bool:
    """Whether transformers has a causal language model for a config, without a tower for images."""
    return (
        config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    )


def _refuse_inference_tensors(name: str, model: PreTrainedModel) -> None:
    """Refuse weights of which no gradients can be taken.

    Raises:
        UnsupportedModelError: some were made in inference mode.
    """
    for parameter, weight in model.named_parameters():
        if weight.is_inference():
            raise UnsupportedModelError(
                f"the weights of {name} were made inside torch.inference_mode() (first {parameter}), so no "
                "gradients can be taken; make or load the transformers model outside of it"
            )


def _set_progress_bars(shown: bool) -> None:
    if shown:
        transformers_logging.enable_progress_bar()
    else:
        transformers_logging.disable_progress_bar()


_quiet = ProcessSettings(
    Setting(transformers_logging.get_verbosity, transformers_logging.set_verbosity, logging.ERROR),
    Setting(transformers_logging.is_progress_bar_enabled, _set_progress_bars, needed=False),
)


def quiet() -> contextlib.AbstractContextManager[None]:
    """No progress bars or warnings of transformers while it loads or saves; errors are still raised."""
    return _quiet.needed()


@contextlib.contextmanager
def _file_errors(place: Location, what: str) -> Iterator[None]:
    """What transformers raises about files, told in one line with a remedy."""
    try:
        yield
    except MnemoscopeError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"{place.name} needs code from its repository; read that code, then pass trust_remote_code"
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"the {what} of {place.name} cannot be read ({type(error).__name__}: {reason}); "
            "check that all its files are there and whole"
        ) from error


@contextlib.contextmanager
def _device_errors(device: str | None) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise OptionError(
            f"the device {device!r} cannot be used ({reason}); "
            "give cpu, or a device that this torch was built for"
        ) from error
