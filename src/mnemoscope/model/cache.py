"""The cache folder: converted models and examples of neurons, each in a folder with a manifest of its files.

An entry is made in a temporary folder beside its final one, under an exclusive lock, and renamed at the end.
A folder under a final name is therefore always whole. Its `manifest.json` records the size and SHA-256 of
every file; the manifest's time of modification is the entry's last use. A process that opens an entry holds
its lock shared, so no other process removes the entry. Lock files are never removed: all processes must wait
for the same file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mnemoscope.errors import ModelFileError

MANIFEST = "manifest.json"


# Size and SHA-256 of a file.
FileRecord = tuple[int, str]


class Owner(NamedTuple):
    """Owner of the files of a folder.

    Attributes:
        name: as errors name it.
        required: names of files that the manifest must list.
        repair: advice where a file is damaged.
    """

    name: str
    required: tuple[str, ...]
    repair: str

    def damaged(self, path: Path, what: str) -> ModelFileError:
        """Return the error of a damaged file."""
        return ModelFileError(f"{path}: this file of {self.name} is damaged: {what}; {self.repair}")

    @contextlib.contextmanager
    def unreadable_is_damaged(self, path: Path) -> Iterator[None]:
        """Raise a file's errors of the operating system as errors of a damaged file."""
        try:
            yield
        except OSError as error:
            raise self.damaged(path, reason_of(error)) from error


def write_manifest(folder: Path, provenance: Mapping[str, str | int]) -> None:
    """Write the manifest of a folder: its provenance, and the size and SHA-256 of every file."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
    }
    text = json.dumps({**provenance, "files": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_contents(folder: Path, owner: Owner) -> None:
    """Compare the SHA-256 of every file with the manifest's.

    Raises:
        ModelFileError: the manifest or a file is missing, unreadable or not as it was made.
    """
    for path, (_, sha256) in check_sizes(folder, owner).items():
        with owner.unreadable_is_damaged(path):
            found = sha256_of(path)
        if found != sha256:
            raise owner.damaged(path, f"its SHA-256 is {found[:12]}... and not what the manifest says")


def check_sizes(folder: Path, owner: Owner) -> dict[Path, FileRecord]:
    """Compare the sizes of files with the manifest's records; return the records by path.

    Raises:
        ModelFileError: the manifest or a file is missing, unreadable or of another size.
    """
    records = {folder / name: record for name, record in _read_manifest(folder / MANIFEST, owner).items()}
    for path, (expected, _) in records.items():
        with owner.unreadable_is_damaged(path):
            size = path.stat().st_size
        if size != expected:
            raise owner.damaged(path, f"it has {size} bytes and not {expected}")
    return records


def _read_manifest(path: Path, owner: Owner) -> dict[str, FileRecord]:
    with owner.unreadable_is_damaged(path):
        content = path.read_bytes()
    try:
        records = {
            name: (int(entry["size"]), str(entry["sha256"]))
            for name, entry in json.loads(content)["files"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise owner.damaged(path, "it is no manifest") from error
    for name in owner.required:
        if name not in records:
            raise owner.damaged(path, f"it does not list {name}")
    return records


def reason_of(error: OSError) -> str:
    """Return the message of an operating system error, in one line and without the path."""
    return error.strerror or " ".join(str(error).split())


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_PART = ".part-"
# Kind of the entries that hold examples of neurons.
EXAMPLES = "examples"
KINDS = ("demo", "gguf", EXAMPLES)


def cache_folder() -> Path:
    """Return the cache folder: `$MNEMOSCOPE_CACHE`, or Mnemoscope's folder in the user's cache."""
    chosen = os.environ.get("MNEMOSCOPE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("mnemoscope", appauthor=False)


@dataclass(frozen=True)
class Entry:
    """Converted model, or examples of neurons, in the cache folder.

    Attributes:
        folder: the folder of its files.
        kind: one of `KINDS`.
        source: path of the GGUF file that it was converted from; `"demo"` for the demo model; of
            examples, the neurons and the corpus.
        size: bytes of all files.
        last_used: seconds since the epoch.
    """

    folder: Path
    kind: str
    source: str
    size: int
    last_used: float

    def is_called(self, name: str) -> bool:
        """Return whether a name is that of the entry's folder, of its source, or of the source's file."""
        given = str(Path(name).expanduser().absolute())
        return name in (self.folder.name, self.source, Path(self.source).name) or given == self.source


def entries() -> list[Entry]:
    """List all whole entries of the cache folder, the least recently used first; none before it is made.

    Raises:
        ModelFileError: it is a file, or cannot be read.
    """
    try:
        folders = sorted(cache_folder().iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelFileError(
            f"cannot list the cache folder {cache_folder()} ({error.strerror or error}); set "
            "MNEMOSCOPE_CACHE to a folder that can be read"
        ) from error
    found = [_entry(folder) for folder in folders if _PART not in folder.name]
    return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.last_used)


def _entry(folder: Path) -> Entry | None:
    kind = folder.name.partition("-")[0]
    if kind not in KINDS:
        return None
    try:
        last_used = (folder / MANIFEST).stat().st_mtime
        source = json.loads((folder / MANIFEST).read_bytes()).get("source", kind)
        size = sum(path.stat().st_size for path in folder.iterdir())
    except (OSError, ValueError, AttributeError):
        return None
    return Entry(folder, kind, source, size, last_used)


def mark_used(folder: Path) -> None:
    """Make an entry the most recently used one, if the cache can be written."""
    with contextlib.suppress(OSError):
        os.utime(folder / MANIFEST)


def remove(folder: Path) -> bool:
    """Remove an entry unless another process or thread uses it; return whether it was removed.

    Raises:
        OSError: the cache folder cannot be written.
    """
    with _exclusive_if_free(folder) as free:
        if free and folder.exists():
            with _temporary(folder) as work:
                folder.replace(Path(work, "old"))
        return free


@contextlib.contextmanager
def making(folder: Path, report: Callable[[str], None], waiting: str) -> Iterator[None]:
    """Hold an entry's exclusive lock, so that no other process makes, opens or removes the entry.

    Args:
        folder: the entry's folder.
        report: called with `waiting` if another process holds the lock.
        waiting: a line of text.

    Raises:
        OSError: the cache folder cannot be written.
    """
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_file(folder))
    try:
        taken = lock.acquire(timeout=0)
    except Timeout:
        report(waiting)
        taken = lock.acquire()
    with taken:
        yield


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder in which to make an entry; call it within `making`.

    Temporary folders of killed processes are removed first, whichever entry they were for.
    """
    remove_abandoned(folder)
    with _temporary(folder) as work:
        yield Path(work)


def remove_abandoned(making: Path | None = None) -> None:
    """Remove the temporary folders of killed processes, whichever entry they were for.

    Args:
        making: the entry whose lock the caller holds.

    Raises:
        OSError: the cache folder cannot be written.
    """
    for left in cache_folder().glob(f"*{_PART}*"):
        owner = left.with_name(left.name.partition(_PART)[0])
        with contextlib.nullcontext(True) if owner == making else _exclusive_if_free(owner) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)


def unfinished(folder: Path) -> Path:
    """Return the file that holds an entry's unfinished examples, from which the next scan goes on."""
    return folder.with_name(f"{folder.name}.unfinished")


def remove_unfinished() -> None:
    """Remove unfinished examples that no process is working on.

    Raises:
        OSError: the cache folder cannot be written.
    """
    for left in cache_folder().glob("*.unfinished"):
        with _exclusive_if_free(left.with_suffix("")) as free:
            if free:
                left.unlink(missing_ok=True)


def install(made: Path, folder: Path) -> None:
    """Move the files of an entry, made within `working_folder`, to the entry's folder."""
    for path in made.iterdir():  # on disk before the rename, so that a loss of power leaves no half file
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    if os.path.lexists(folder):
        folder.replace(made.parent / "old")
    made.replace(folder)


@contextlib.contextmanager
def using(folder: Path) -> Iterator[None]:
    """Hold an entry's shared lock, so that no other process removes the entry.

    No lock is held where the cache cannot be written and has no lock file.
    """
    try:
        import fcntl
    except ImportError:  # Windows, which removes no file that is open
        yield
        return
    lock = _lock_file(folder)
    try:
        try:
            stream = lock.open("ab")
        except PermissionError:
            stream = lock.open("rb")
    except OSError:
        yield
        return
    with stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def _exclusive_if_free(folder: Path) -> Iterator[bool]:
    from filelock import FileLock, Timeout

    try:
        taken = FileLock(_lock_file(folder)).acquire(timeout=0)
    except Timeout:
        yield False
        return
    with taken:
        yield True


def _temporary(folder: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(
        prefix=f"{folder.name}{_PART}", dir=folder.parent, ignore_cleanup_errors=True
    )


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
