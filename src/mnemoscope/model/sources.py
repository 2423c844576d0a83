"""Where a model is, and whether its files are there and whole, told apart before anything is opened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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

from mnemoscope.errors import MnemoscopeError, ModelFileError, UnknownModelError
from mnemoscope.model.demo import ensure_demo

_logger = logging.getLogger(__name__)

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Location:
    """Where a model or an adapter is.

    Attributes:
        name: as the caller gave it.
        path: a folder or a hub id.
        gguf_file: name of a GGUF file in the folder.
        revision: commit of a hub repository.
        cached_only: whether the hub cannot be asked, so that its cache must have everything.
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
        """Its GGUF file, as long as that is to be opened itself."""
        return Path(self.path) / self.gguf_file if self.gguf_file else None

    @property
    def folder(self) -> Path | None:
        """The folder; None on the hub."""
        return Path(self.path) if Path(self.path).is_dir() else None

    @property
    def arguments(self) -> dict[str, Any]:
        """What transformers is to be told beside the path."""
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
        """A file of it, fetched from the hub if need be; None if there is none.

        Raises:
            UnknownModelError: the hub refuses to give it.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        with _hub_errors(self):
            try:
                return Path(
                    hf_hub_download(
                        self.path, name, revision=self.revision, local_files_only=self.cached_only
                    )
                )
            except EntryNotFoundError:
                return None


def find(source: str | Path, revision: str | None) -> Location:
    """Where a model or an adapter is.

    Raises:
        UnknownModelError: nowhere that can be read from here.
        ModelFileError: the demo model is damaged.
    """
    if source == "demo":
        return Location("demo", str(ensure_demo(report=_logger.warning)))
    path = Path(source).expanduser()
    name = str(source)
    if path.is_file():
        if path.suffix != ".gguf":
            raise UnknownModelError(
                f"{name} is a file but not a .gguf; give a model's folder or a .gguf file"
            )
        return Location(name, str(path.parent), path.name)
    if path.is_dir():
        return _checked_folder(Location(name, str(path)), path)
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith((".", "~")):
        raise UnknownModelError(f"there is no file or folder {name}; check the path, or give a hub id")
    return _on_hub(Location(name, name, revision=revision))


def _checked_folder(place: Location, folder: Path) -> Location:
    if place.file(CONFIG) or place.file(ADAPTER_CONFIG):
        return place
    found = sorted(path.name for path in folder.glob("*.gguf"))
    remedy = f"give {folder / found[0]}" if found else "give a folder saved by save_pretrained"
    raise UnknownModelError(f"the folder {folder} has no {CONFIG}; {remedy}")


def _on_hub(place: Location) -> Location:
    """The place at the commit that its revision is now, so that all its files are of one."""
    asked = _asked(place)
    # By its own name for the revision, which the cache then knows: without the hub it must find that too.
    config = asked.file(CONFIG) or asked.file(ADAPTER_CONFIG)
    if config is not None:
        return replace(asked, revision=config.parent.name)
    if asked.cached_only:
        raise _not_at_hand(place, "it")
    raise UnknownModelError(
        f"the hub's {place.name} has no {CONFIG}, so it is no model of transformers; give another id, or "
        "download its .gguf file and give that"
    )


def _asked(place: Location) -> Location:
    """Ask the hub once whether it has a repository, where for a file it would be asked for half a minute."""
    with _hub_errors(place):
        try:
            HfApi().model_info(place.path, revision=place.revision, timeout=10)
        except (HfHubHTTPError, HFValidationError):
            raise
        except Exception:  # noqa: BLE001 - the HTTP client is the hub library's own affair, and so its errors
            return replace(place, cached_only=True)
    return place


def _not_at_hand(place: Location, what: str) -> UnknownModelError:
    """That the hub cannot be asked and the cache does not have something."""
    where = f"no model {place.name!r} can be opened: there is no such folder, the hub's cache lacks {what}"
    if constants.is_offline_mode():
        return UnknownModelError(
            f"{where}, and HF_HUB_OFFLINE forbids fetching; unset it, give a folder, or take 'demo'"
        )
    return UnknownModelError(
        f"{where}, and the hub cannot be reached; check the spelling and the network, or take 'demo'"
    )


@contextlib.contextmanager
def _hub_errors(place: Location) -> Iterator[None]:
    """What the hub refuses, told apart."""
    try:
        yield
    except GatedRepoError as error:
        raise UnknownModelError(
            f"the hub's {place.name} is gated and you may not read it yet; ask for access on its page, then "
            "log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UnknownModelError(
            f"the hub's {place.name} has no revision {place.revision!r}; give a branch, tag or commit of it"
        ) from error
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UnknownModelError(
            f"no model {place.name!r} can be opened: there is no such folder here, and no hub repository "
            "that you may read has this name; check the spelling and, for a private one, your access token, "
            "or take 'demo'"
        ) from error
    except HfHubHTTPError as error:
        raise UnknownModelError(
            f"the hub refused to give {place.name} (status {error.response.status_code}); log in anew with "
            "`hf auth login` if your access token is old, or try again later"
        ) from error


def check_weights(place: Location) -> None:
    """Have all weight files of a model at hand, and their headers read.

    A header tells where every tensor lies and must cover the file to its last byte, so a file that was
    cut short is found. Flipped bits within it are not.

    Raises:
        ModelFileError: there are none, only pickles, or one is missing or damaged.
        UnknownModelError: they are on the hub, which cannot be asked.
    """
    for path in _weight_files(place):
        check_tensors(path)


def check_tensors(path: Path) -> None:
    """Read the header of a safetensors file.

    Raises:
        ModelFileError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"the weights in {path} are damaged ({error}); copy or download that file again"
        ) from error


def _weight_files(place: Location) -> list[Path]:
    if single := place.file(WEIGHTS):
        return [single]
    index = place.file(WEIGHTS_INDEX)
    if index is None:
        raise _no_weights(place)
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{index} is no index of weights ({error}); copy or download it again"
        ) from error
    found = {name: place.file(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise ModelFileError(
            f"{len(missing)} of the {len(names)} weight files that {index} lists are not there, "
            f"first {missing[0]}; copy or download what is missing"
        )
    return [path for path in found.values() if path is not None]


def _no_weights(place: Location) -> MnemoscopeError:
    if place.folder is None:
        if place.cached_only:
            return _not_at_hand(place, "its weights file")
        return ModelFileError(
            f"the hub's {place.name} has no {WEIGHTS}, and weights in pickles can run code when opened; "
            "convert them to safetensors (load it where you trust it and call save_pretrained) and open that"
        )
    pickles = sorted(path.name for kind in PICKLES for path in place.folder.glob(kind))
    if pickles:
        return ModelFileError(
            f"the folder {place.folder} has its weights only as a pickle ({pickles[0]}), which can run code "
            "when opened; "
            "convert it to safetensors (load it where you trust it and call save_pretrained) and open that"
        )
    parts = sorted(path.name for path in place.folder.glob("*.safetensors"))
    if parts:
        return ModelFileError(
            f"the folder {place.folder} has {parts[0]}, but neither {WEIGHTS} nor {WEIGHTS_INDEX}, which "
            "says what is in which file; copy the index there too"
        )
    return ModelFileError(
        f"the folder {place.folder} has a config but no weights (*.safetensors); copy the whole checkpoint "
        "there"
    )
