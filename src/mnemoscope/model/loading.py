"""Open a model by name, folder or file, or as a loaded object, and find its parts."""

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
from mnemoscope.model.families.registry import added_families, structure_of
from mnemoscope.model.gguf_cache import kept
from mnemoscope.model.gguf_conversion import correct_tokenizer, parsed_once, read_converted_tokenizer
from mnemoscope.model.isolation import held
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.peft import find_adapter, merge, unwrapped
from mnemoscope.model.sources import Location, check_pair, check_weights, find, is_name
from mnemoscope.model.tokens import check_tokenizer
from mnemoscope.model.torch_state import ProcessSettings, Setting, default_torch_state
from mnemoscope.model.validation import require, validate
from mnemoscope.results.targets import IN_MEMORY

Source = str | Path | tuple[nn.Module, PreTrainedTokenizerBase]
# Every format of tokenizers has one of these files.
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
    """A model read from its files; the attributes are those of `LanguageModel`."""

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class _ReadOptions:
    """Options of reading a model's files.

    Attributes:
        dtype: type of the weights; None is the files' own.
        trust_remote_code: whether to run code that lies beside the files.
        spread: whether accelerate lays out the weights over devices, memory and disk.
    """

    dtype: str | None
    trust_remote_code: bool
    spread: bool


@default_torch_state()
def open_model(
    source: Source,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    must_pass: bool = True,
) -> LanguageModel:
    """Open and validate a model; `mnemoscope.load` documents the other arguments and errors.

    Where its validation fails, the model is refused, or returned if it need not pass (`must_pass`).
    """
    dtype, device = dtype_name(dtype), device_name(device)
    named = is_name(source)
    _refuse_useless(source, revision=revision, dtype=dtype, device=device)
    if not named:
        wrapped, tokenizer = check_pair(source)
        model, name = unwrapped(wrapped)
        return _validated(_Read(name, IN_MEMORY, model, tokenizer), must_pass)
    with quiet():
        read = _read(find(source, revision), _ReadOptions(dtype, trust_remote_code, device == AUTO))
    if device != AUTO:
        try:
            read.model.to(torch.device(device or "cpu"))  # pyright: ignore[reportArgumentType]
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().split("\n")[0]
            raise OptionError(
                f"the device {device!r} cannot be used ({reason}); "
                "give cpu, or a device that this torch was built for"
            ) from error
    read.model.eval()
    return _validated(read, must_pass)


@dataclass(frozen=True)
class ModelDescription:
    """Description of a model without its weights.

    Attributes:
        name: the name that it was given by.
        config: config of transformers; of an adapter that of its base.
        tokenizer: its tokenizer.
        dtype: type in which its weights would be opened.
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
) -> ModelDescription:
    """Read a model's config and tokenizer without its weights; raises as `open_model` does."""
    dtype = dtype_name(dtype)
    _refuse_useless(source, revision=revision)
    options = _ReadOptions(dtype, trust_remote_code, spread=False)
    with quiet(), contextlib.ExitStack() as stack:
        location = find(source, revision)
        adapter = find_adapter(location)
        base = stack.enter_context(_opening(location if adapter is None else adapter.base, make=False))
        config = _config(base, options)
        brings_tokenizer = adapter is not None and _has_tokenizer(location)
        tokenizer = _tokenizer(location if brings_tokenizer else base, config, options)
    stored = config.get_text_config().dtype
    usual = torch.float32 if base.gguf_file or stored is None else stored
    return ModelDescription(location.name, config, tokenizer, getattr(torch, dtype) if dtype else usual)


def _refuse_useless(source: Source, **options: str | None) -> None:
    """Refuse options without effect: any for a loaded model, a revision for a source that is no repository.

    Raises:
        OptionError: such an option is given.
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


def _validated(read: _Read, must_pass: bool) -> LanguageModel:
    _refuse_kind(read.model.config)
    for name, weight in read.model.named_parameters():
        if weight.is_inference():  # has no gradients
            raise UnsupportedModelError(
                f"the weights of {read.name} were made inside torch.inference_mode() (first {name}), so no "
                "gradients can be taken; make or load the transformers model outside of it"
            )
    if read.model.get_output_embeddings() is None:
        raise UnsupportedModelError(
            f"{type(read.model).__name__} has no head that predicts tokens; open the checkpoint with "
            "AutoModelForCausalLM.from_pretrained"
        )
    check_tokenizer(read.name, read.model, read.tokenizer)
    with held(read.model):
        structure = structure_of(read.model)
        validation = validate(read.model, structure)
    if must_pass:
        require(validation, read.model)
    return LanguageModel(read.name, read.revision, read.model, read.tokenizer, structure, validation)


def _read(location: Location, options: _ReadOptions) -> _Read:
    adapter = find_adapter(location)
    if adapter is None:
        return _read_model(location, options)
    if options.spread:
        raise OptionError(
            f"{location.name} is an adapter, whose base cannot be spread over devices before they are "
            "merged; name one device, or merge it with peft, save that, and open the merged model"
        )
    base = _read(adapter.base, options)
    model = merge(adapter, base.model)
    tokenizer = _tokenizer(location, model.config, options) if _has_tokenizer(location) else base.tokenizer
    return _Read(f"{location.name} on {base.name}", f"{location.digest} on {base.revision}", model, tokenizer)


def _read_model(location: Location, options: _ReadOptions) -> _Read:
    with contextlib.ExitStack() as stack:
        location = stack.enter_context(_opening(location))
        config = _config(location, options)
        if location.gguf is None:
            check_weights(location)
        tokenizer = _tokenizer(location, config, options)
        read = _Read(location.name, location.digest, _model(location, config, options), tokenizer)
        if options.spread and location.gguf is None:
            # Layers that are offloaded to disk are read from these files as long as the model lives.
            weakref.finalize(read.model, stack.pop_all().close)
    return read


@contextlib.contextmanager
def _opening(location: Location, *, make: bool = True) -> Iterator[Location]:
    """Yield the location of the files to open: a GGUF file's cached conversion, or the file itself."""
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(kept(location, make=make))
        if opened.gguf is not None:
            stack.enter_context(parsed_once())
        yield opened


def _config(location: Location, options: _ReadOptions) -> Any:
    added_families()  # registers their architectures with transformers
    with _file_errors(location, "config"):
        config = AutoConfig.from_pretrained(
            location.path, trust_remote_code=options.trust_remote_code, **location.arguments
        )
    _refuse_kind(config)
    return config


def _has_tokenizer(location: Location) -> bool:
    return location.gguf_file is not None or any(location.file(name) for name in TOKENIZER_FILES)


def _tokenizer(location: Location, config: Any, options: _ReadOptions) -> PreTrainedTokenizerBase:
    if not _has_tokenizer(location):
        raise ModelFileError(
            f"{location.name} has no tokenizer; copy that of the model it was made from there "
            "(tokenizer.json and tokenizer_config.json), or give (model, tokenizer)"
        )
    with _file_errors(location, "tokenizer"):
        if location.converted_from is not None:
            return read_converted_tokenizer(location.path)
        tokenizer = AutoTokenizer.from_pretrained(
            location.path, trust_remote_code=options.trust_remote_code, **location.arguments
        )
        if location.gguf is not None:
            correct_tokenizer(location.gguf, tokenizer, config)
        return tokenizer


def _model(location: Location, config: Any, options: _ReadOptions) -> PreTrainedModel:
    usual = torch.float32 if location.gguf_file else "auto"
    is_multimodal = not _is_causal(config) and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    kind: Any = AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM
    with _file_errors(location, "weights"):
        opened: Any = kind.from_pretrained(
            location.path,
            dtype=getattr(torch, options.dtype) if options.dtype else usual,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=options.trust_remote_code,
            device_map=AUTO if options.spread else None,
            # transformers looks for an adapter too, which takes long where the hub cannot be reached.
            adapter_kwargs={"local_files_only": True},
            **location.arguments,
        )
    model, report = opened
    # transformers draws missing or mismatched tensors at random, with a warning alone.
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise ModelFileError(
            f"the tensor {name} in the weights of {location.name} has the shape {tuple(found)}, but its "
            f"config asks for {tuple(wanted)}; put the config and the weights of one model there"
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelFileError(
            f"the weights of {location.name} lack {len(missing)} of the tensors of a {config.model_type} "
            f"model, first {missing[0]}; copy the whole checkpoint, saved as a causal language model"
        )
    return model


def _refuse_kind(config: Any) -> None:
    kind = config.model_type
    known = _is_causal(config) or kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if getattr(config, "is_encoder_decoder", False):
        reason = "is an encoder-decoder model"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        reason = "is an encoder-only model, which predicts masked tokens and not the next one"
    elif not known and not hasattr(config, "auto_map"):
        reason = "has no causal language model in transformers"
    else:
        return
    raise UnsupportedModelError(f"{kind} {reason}; use a decoder-only model such as GPT-2 or Llama")


def _is_causal(config: Any) -> bool:
    """Return whether transformers has a causal language model for a config, without an image tower."""
    return (
        config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    )


def _set_progress_bars(shown: bool) -> None:
    if shown:
        transformers_logging.enable_progress_bar()
    else:
        transformers_logging.disable_progress_bar()


# Switches off progress bars and warnings of transformers within a context; errors are still raised.
quiet = ProcessSettings(
    Setting(transformers_logging.get_verbosity, transformers_logging.set_verbosity, logging.ERROR),
    Setting(transformers_logging.is_progress_bar_enabled, _set_progress_bars, needed=False),
).needed


@contextlib.contextmanager
def _file_errors(location: Location, what: str) -> Iterator[None]:
    """Raise the errors of transformers about files as a ModelFileError of one line, with its remedy."""
    try:
        yield
    except MnemoscopeError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"{location.name} needs code from its repository; read that code, then pass trust_remote_code"
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"the {what} of {location.name} cannot be read ({type(error).__name__}: {reason}); "
            "check that all its files are there and whole"
        ) from error
