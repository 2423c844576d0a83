"""Conversions of GGUF files, made once and kept in the cache folder.

A conversion is found by the SHA-256 of the file's contents, which is stored. A file counts as unchanged, and
is not hashed again, while its size, inode, and times of modification and of change of status are equal. The
latter time cannot be set back, so a file that was changed in place is hashed anew.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mnemoscope._arguments import CONFIG
from mnemoscope._io import write_atomically
from mnemoscope.errors import MnemoscopeError, ModelFileError, OptionError
from mnemoscope.model import cache
from mnemoscope.model.cache import MANIFEST, Owner, check_sizes, reason_of, sha256_of, write_manifest
from mnemoscope.model.gguf_conversion import convert_gguf, float32_bytes, parsed_once
from mnemoscope.model.sources import Location, check_weights

_logger = logging.getLogger(__name__)

LIMIT = "MNEMOSCOPE_CACHE_LIMIT"
USUAL_LIMIT = 20_000_000_000
# Version of the converted files; conversions of other versions are made anew.
_CONVERSION = 1
_CONVERTED = Owner(
    "a GGUF file's conversion",
    required=(CONFIG, "tokenizer_config.json"),
    repair="open the GGUF file, which converts it anew",
)
_DIGESTS = "gguf-digests.json"
# A file written within this time could be written again within one tick of its file system's clock.
_SETTLED_NS = 2_000_000_000
# Bytes below which a conversion takes at most a few seconds, and is not announced.
_LARGE = 200_000_000


@dataclass(frozen=True)
class _Contents:
    """GGUF file with the hash of its contents.

    Attributes:
        path: the file.
        identity: size, times of modification and of change of status, inode and device.
        digest: SHA-256 of its contents.
    """

    path: Path
    identity: list[str | int]
    digest: str

    @property
    def folder(self) -> Path:
        """Folder of the conversion."""
        return cache.cache_folder() / f"gguf-{self.digest[:16]}"

    def check_unchanged(self) -> None:
        """Raise ModelFileError if the file has changed since it was hashed."""
        if _identity(self.path) != self.identity:
            raise ModelFileError(f"{self.path} was changed while it was read; open it again once it is whole")


def cache_limit() -> int:
    """Return the number of bytes that all kept conversions may take together.

    Raises:
        OptionError: `MNEMOSCOPE_CACHE_LIMIT` is no number of gigabytes.
    """
    given = os.environ.get(LIMIT)
    if not given:
        return USUAL_LIMIT
    try:
        limit = float(given)
        if not 0 <= limit < 1e9:  # false for nan too
            raise ValueError
    except ValueError as error:
        raise OptionError(
            f"{LIMIT} is {given!r}; give gigabytes such as 50, or 0 to keep no conversion"
        ) from error
    return int(limit * 1e9)


@contextlib.contextmanager
def kept(location: Location, *, make: bool = True) -> Iterator[Location]:
    """Yield the location of a GGUF file's conversion, which no process removes within the context.

    A location without a GGUF file is yielded unchanged, and so is one whose conversion cannot be kept. The
    latter is logged as a warning, unless opening the file fails too.

    Args:
        location: location of a model or adapter.
        make: convert the file if need be; False yields only a conversion made before.

    Raises:
        OptionError: `MNEMOSCOPE_CACHE_LIMIT` is no number of gigabytes.
    """
    gguf = location.gguf
    if gguf is None:
        with cache.using(Path(location.path)) if location.name == "demo" else contextlib.nullcontext():
            if location.name == "demo":
                cache.mark_used(Path(location.path))
            yield location
        return
    limit = cache_limit()
    reason = ""
    with contextlib.ExitStack() as stack:
        try:
            folder = _find_or_make(gguf, limit, stack) if make else _find(gguf, stack)
            if folder is not None:
                location = replace(location, path=str(folder), gguf_file=None, converted_from=gguf)
        except Exception as error:  # noqa: BLE001 - opening the file itself may succeed, or raises it again
            reason = " ".join(str(error).split())[:200]
            if isinstance(error, OSError) and not isinstance(error, MnemoscopeError):
                reason = f"{reason_of(error)} in {cache.cache_folder()}"
        yield location
    if reason and make:
        _logger.warning("%s is opened without keeping its conversion: %s", location.name, reason)


def _find_or_make(gguf: Path, limit: int, stack: contextlib.ExitStack) -> Path:
    """Find or make a GGUF file's conversion, and hold its lock until the stack ends.

    Raises:
        OSError: the cache folder cannot be written, or the disk has no room.
        ModelFileError: the conversion is larger than the limit, or fails.
    """
    contents = _contents(gguf)
    for _ in range(3):
        with contextlib.ExitStack() as opening:
            opening.enter_context(cache.using(contents.folder))
            if _is_whole(contents.folder, contents.digest):
                cache.mark_used(contents.folder)
                stack.enter_context(opening.pop_all())
                return contents.folder
        # Between the two locks is a gap, in which other processes may make or remove the conversion.
        waiting = f"waiting for another process that converts {gguf}"
        with cache.making(contents.folder, _logger.warning, waiting):
            if not _is_whole(contents.folder, contents.digest):
                _make(contents, limit)
    raise ModelFileError("other processes removed its conversion each time")


def _find(gguf: Path, stack: contextlib.ExitStack) -> Path | None:
    """Find the conversion of a file whose digest is stored, and hold its lock until the stack ends."""
    contents = _stored_contents(gguf)
    if contents is None or not contents.folder.exists():
        return None
    stack.enter_context(cache.using(contents.folder))
    return contents.folder if _is_whole(contents.folder, contents.digest) else None


def _make(contents: _Contents, limit: int) -> None:
    """Convert a file in a temporary folder, make room for the result, and rename it to its final name."""
    with parsed_once(), cache.working_folder(contents.folder) as work:
        n_bytes = float32_bytes(contents.path)
        _check_limit(n_bytes, limit)
        _make_room(contents.folder, limit - n_bytes, n_bytes)
        if n_bytes > _LARGE:
            _logger.warning("converting %s to float32, %.1f GB, once", contents.path, n_bytes / 1e9)
        made = work / "model"
        made.mkdir()
        convert_gguf(contents.path, made)
        contents.check_unchanged()
        write_manifest(made, {"source": str(contents.path.absolute()), **_provenance(contents.digest)})
        size = sum(path.stat().st_size for path in made.iterdir())
        _check_limit(size, limit)
        # One process at a time, so that two do not both take the last room.
        with cache.making(contents.folder.with_name("gguf"), _logger.info, "waiting for room in the cache"):
            _make_room(contents.folder, limit - size, 0)
            cache.install(made, contents.folder)


def _check_limit(n_bytes: int, limit: int) -> None:
    if n_bytes > limit:
        raise ModelFileError(
            f"it takes {n_bytes / 1e9:.3g} GB, and {LIMIT} lets all conversions take {limit / 1e9:.3g} GB"
        )


def _make_room(made: Path, allowed: int, free: int) -> None:
    """Remove the least recently used conversions that no process uses.

    Args:
        made: the conversion to make room for; a damaged one that it replaces does not count.
        allowed: largest number of bytes of the remaining conversions.
        free: smallest number of bytes free on the disk afterwards.

    Raises:
        OSError: fewer bytes are free on the disk.
        ModelFileError: conversions in use take more than `allowed`.
    """
    conversions = [entry for entry in cache.entries() if entry.kind == "gguf" and entry.folder != made]
    taken = sum(entry.size for entry in conversions)
    for entry in conversions:
        if taken <= allowed and shutil.disk_usage(cache.cache_folder()).free >= free:
            return
        if cache.remove(entry.folder):
            taken -= entry.size
    if taken > allowed:
        raise ModelFileError(f"other models take the room that {LIMIT} gives, and are in use")
    if shutil.disk_usage(cache.cache_folder()).free < free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_whole(folder: Path, digest: str) -> bool:
    """Return whether a file's conversion is whole and made by the installed version of transformers."""
    try:
        check_sizes(folder, _CONVERTED)
        check_weights(Location(folder.name, str(folder)))
        said = json.loads((folder / MANIFEST).read_bytes())
    except (MnemoscopeError, OSError):
        return False
    return all(said.get(name) == value for name, value in _provenance(digest).items())


def _provenance(digest: str) -> dict[str, str | int]:
    import transformers

    return {
        "sha256": digest,
        "conversion": _CONVERSION,
        "transformers_version": transformers.__version__,
    }


def _contents(gguf: Path) -> _Contents:
    """Return a file with its digest: the stored one if the file is unchanged, else a new one.

    Raises:
        ModelFileError: the file changes meanwhile.
        OSError: the file cannot be read.
    """
    if stored := _stored_contents(gguf):
        return stored
    started = time.time_ns()
    identity = _identity(gguf)
    contents = _Contents(gguf, identity, sha256_of(gguf))
    contents.check_unchanged()
    status = gguf.stat()
    # On Windows the time of change of status is that of creation.
    if os.name != "nt" and started - max(status.st_ctime_ns, status.st_mtime_ns) > _SETTLED_NS:
        existing = {path: stored for path, stored in _digests().items() if Path(path).exists()}
        text = json.dumps({**existing, os.path.realpath(gguf): [*identity, contents.digest]}, indent=1)
        with contextlib.suppress(MnemoscopeError, OSError):
            cache.cache_folder().mkdir(parents=True, exist_ok=True)
            write_atomically(cache.cache_folder() / _DIGESTS, text.encode())
    return contents


def _stored_contents(gguf: Path) -> _Contents | None:
    """Return a file with its stored digest; None if the file has none or has changed."""
    *identity, digest = _digests().get(os.path.realpath(gguf)) or [""]
    return _Contents(gguf, identity, str(digest)) if identity == _identity(gguf) else None


def _identity(gguf: Path) -> list[str | int]:
    status = gguf.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


def _digests() -> dict[str, list[str | int]]:
    """Read the stored digests: by path, a file's identity followed by its digest."""
    try:
        digests = json.loads((cache.cache_folder() / _DIGESTS).read_bytes())
    except (OSError, ValueError):
        return {}
    return digests if isinstance(digests, dict) else {}
