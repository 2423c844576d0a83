"""Sources of a model: the demo model, folders, GGUF files, hub repositories and loaded objects.

`find` locates a named model without opening it, `check_weights` reads the headers of its files, and
`check_pair` refuses loaded objects that are no causal language model and its tokenizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import tokenizers
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from mnemoscope._arguments import ADAPTER_CONFIG, CONFIG, check_model_path
from mnemoscope.errors import (
    MnemoscopeError,
    ModelFileError,
    OptionError,
    UnknownModelError,
    UnsupportedModelError,
)
from mnemoscope.model.demo import ensure_demo

_logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SOURCES = "'demo', a hub id, a folder, a .gguf file or a loaded (model, tokenizer)"


@dataclass(frozen=True)
class Location:
    """Location of a model's or an adapter's files.

    Attributes:
        name: as the caller gave it.
        path: a folder or a hub id.
        gguf_file: name of a GGUF file in the folder.
        revision: commit of a hub repository.
        cached_only: whether the hub cannot be reached, so that its cache must hold every file.
        converted_from: the GGUF file that the folder's files were converted from.
    """

    name: str
    path: str
    gguf_file: str | None = None
    revision: str | None = None
    cached_only: bool = False
    converted_from: Path | None = None

    @property
    def gguf(self) -> Path | None:
        """The GGUF file to open; None where there is none or its conversion is opened."""
        return Path(self.path) / self.gguf_file if self.gguf_file else None

    @property
    def folder(self) -> Path | None:
        """The folder; None on the hub."""
        return Path(self.path) if Path(self.path).is_dir() else None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` beside the path."""
        if self.gguf_file:
            return {"gguf_file": self.gguf_file}
        return {"revision": self.revision, "local_files_only": self.cached_only}

    @property
    def digest(self) -> str:
        """The hub's commit, or a digest of the names and sizes of the files."""
        if self.folder is None:
            return self.revision or "unknown"
        if gguf := self.gguf or self.converted_from:
            files = [gguf]
        else:
            names = (CONFIG, ADAPTER_CONFIG, "*.safetensors")
            files = sorted(path for name in names for path in self.folder.glob(name))
        listing = "\n".join(f"{path.name} {path.stat().st_size}" for path in files)
        return "files-" + hashlib.sha256(listing.encode()).hexdigest()[:12]

    def file(self, name: str) -> Path | None:
        """Return the path of a file, downloaded from the hub if need be; None if it does not exist.

        Raises:
            UnknownModelError: the hub refuses it.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        with _hub_errors(self):
            try:
                path = hf_hub_download(
                    self.path, name, revision=self.revision, local_files_only=self.cached_only
                )
            except EntryNotFoundError:
                return None
        return Path(path)


def find(source: str | Path, revision: str | None) -> Location:
    """Locate a model or an adapter; a hub repository is pinned to the commit of its revision.

    Raises:
        UnknownModelError: nothing that can be read has this name.
        ModelFileError: the demo model is damaged.
    """
    if source == "demo":
        return Location("demo", str(ensure_demo(report=_logger.warning)))
    name = str(source)
    check_model_path(name)
    path = Path(source).expanduser()
    if path.is_file():
        return Location(name, str(path.parent), path.name)
    if path.is_dir():
        return Location(name, str(path))
    return _on_hub(Location(name, name, revision=revision))


def _on_hub(location: Location) -> Location:
    # One request shows whether the hub can be reached; for a file it would be retried for half a minute.
    with _hub_errors(location):
        try:
            HfApi().model_info(location.path, revision=location.revision, timeout=10)
        except (HfHubHTTPError, HFValidationError):
            raise
        except Exception:  # noqa: BLE001 - the hub library may use any HTTP client, with errors of its own
            location = replace(location, cached_only=True)
    # Asked for by the revision's own name, which the cache stores: without the hub it must find that too.
    config = location.file(CONFIG) or location.file(ADAPTER_CONFIG)
    if config is not None:
        return replace(location, revision=config.parent.name)
    if location.cached_only:
        raise _not_cached(location, "it")
    raise UnknownModelError(
        f"the hub's {location.name} has no {CONFIG}, so it is no model of transformers; give another id, or "
        "download its .gguf file and give that"
    )


def _not_cached(location: Location, what: str) -> UnknownModelError:
    where = f"no model {location.name!r} can be opened: there is no such folder, the hub's cache lacks {what}"
    if constants.is_offline_mode():
        return UnknownModelError(
            f"{where}, and HF_HUB_OFFLINE forbids fetching; unset it, give a folder, or take 'demo'"
        )
    return UnknownModelError(
        f"{where}, and the hub cannot be reached; check the spelling and the network, or take 'demo'"
    )


@contextlib.contextmanager
def _hub_errors(location: Location) -> Iterator[None]:
    """Raise each refusal of the hub as an UnknownModelError with its remedy."""
    try:
        yield
    except GatedRepoError as error:
        raise UnknownModelError(
            f"the hub's {location.name} is gated and you may not read it yet; ask for access on its page, "
            "then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UnknownModelError(
            f"the hub's {location.name} has no revision {location.revision!r}; give a branch, tag or commit "
            "of it"
        ) from error
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UnknownModelError(
            f"no model {location.name!r} can be opened: there is no such folder here, and no hub repository "
            "that you may read has this name; check the spelling and, for a private one, your access token, "
            "or take 'demo'"
        ) from error
    except HfHubHTTPError as error:
        raise UnknownModelError(
            f"the hub refused to give {location.name} (status {error.response.status_code}); log in anew "
            "with `hf auth login` if your access token is old, or try again later"
        ) from error


def check_weights(location: Location) -> None:
    """Download all weight files of a model that are not here, and read their headers.

    A header gives the position of every tensor and must cover the file to its last byte, so a file that was
    cut short is found. Flipped bits within the file are not.

    Raises:
        ModelFileError: there are none, only pickles, or one is missing or damaged.
        UnknownModelError: they are on the hub, which cannot be reached.
    """
    for path in _weight_files(location):
        check_tensors(path)


def check_tensors(path: Path) -> None:
    """Read the header of a safetensors file.

    Raises:
        ModelFileError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"the weights in {path} are damaged ({error}); copy or download that file again"
        ) from error


def _weight_files(location: Location) -> list[Path]:
    if single := location.file(WEIGHTS):
        return [single]
    index = location.file(WEIGHTS_INDEX)
    if index is None:
        raise _no_weights(location)
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{index} is no index of weights ({error}); copy or download it again"
        ) from error
    found = {name: location.file(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise ModelFileError(
            f"{len(missing)} of the {len(names)} weight files that {index} lists are not there, "
            f"first {missing[0]}; copy or download what is missing"
        )
    return [path for path in found.values() if path is not None]


def _no_weights(location: Location) -> MnemoscopeError:
    folder = location.folder
    remedy = "convert {} to safetensors (load it where you trust it and call save_pretrained) and open that"
    if folder is None:
        if location.cached_only:
            return _not_cached(location, "its weights file")
        return ModelFileError(
            f"the hub's {location.name} has no {WEIGHTS}, and weights in pickles can run code when opened; "
            + remedy.format("them")
        )
    if pickles := sorted(path.name for kind in PICKLES for path in folder.glob(kind)):
        return ModelFileError(
            f"the folder {folder} has its weights only as a pickle ({pickles[0]}), which can run code when "
            f"opened; {remedy.format('it')}"
        )
    if parts := sorted(path.name for path in folder.glob("*.safetensors")):
        return ModelFileError(
            f"the folder {folder} has {parts[0]}, but neither {WEIGHTS} nor {WEIGHTS_INDEX}, which says what "
            "is in which file; copy the index there too"
        )
    return ModelFileError(
        f"the folder {folder} has a config but no weights (*.safetensors); copy the whole checkpoint there"
    )


def is_name(source: Any) -> TypeGuard[str | Path]:
    """Return whether a source names a model; False for a loaded pair.

    Raises:
        OptionError: the source is neither a name nor a pair.
    """
    if isinstance(source, (str, Path)):
        if not str(source).strip():
            raise OptionError(f"the model's name is empty; give {_SOURCES}")
        return True
    if isinstance(source, (tuple, list)):
        return False
    if isinstance(source, nn.Module):
        raise OptionError(
            f"{type(source).__name__} was given without its tokenizer; give both as (model, tokenizer)"
        )
    raise OptionError(f"no model opens from an object of type {type(source).__name__}; give {_SOURCES}")


def check_pair(source: Any) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return the model and tokenizer of a pair; of a compiled model, the model that it compiles.

    Args:
        source: a tuple or list. The model is one of transformers or a peft wrapper around one.

    Raises:
        OptionError: the objects are no loaded causal language model and tokenizer, in this order.
        UnsupportedModelError: modules are compiled in place, or weights are absent.
    """
    if len(source) != 2:
        raise OptionError(f"{len(source)} objects were given, not two; give (model, tokenizer)")
    model, tokenizer = source
    if isinstance(model, PreTrainedTokenizerBase) and isinstance(tokenizer, nn.Module):
        raise OptionError("the tokenizer was given before the model; give (model, tokenizer)")
    if _is_compiled(model):
        model = model._orig_mod
    _check_model(model)
    _check_tokenizer(tokenizer)
    _refuse_compiled(model)
    return model, tokenizer


def _check_model(model: Any) -> None:
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
    if absent and not any(hasattr(module, "_hf_hook") for module in model.modules()):  # not offloaded
        raise UnsupportedModelError(
            f"{len(absent)} weights of {type(model).__name__} lie on the meta device, so hold no numbers, "
            f"first {absent[0]}; load the checkpoint with from_pretrained"
        )


def _check_tokenizer(tokenizer: Any) -> None:
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
            raise UnsupportedModelError(
                f"{name or 'the model'} ({type(module).__name__}) is compiled in place, so nothing inside "
                "can be watched; load the model anew and give it before compile(), or give "
                "torch.compile(model), which leaves the model as it was"
            )


def _is_compiled(model: Any) -> bool:
    """Return whether `torch.compile` wrapped a module, without the slow import of the compiler."""
    return isinstance(model, nn.Module) and "_orig_mod" in model._modules
