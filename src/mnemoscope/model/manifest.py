"""The list of a kept model's files, and the check that they are still as they were made."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mnemoscope.errors import ModelFileError

MANIFEST = "manifest.json"
REQUIRED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)

_REPAIR = "make it anew with `mnemoscope demo --repair` or ensure_demo(repair=True)"


class FileRecord(NamedTuple):
    """What the manifest says of one file."""

    size: int
    sha256: str


def write_manifest(folder: Path, provenance: Mapping[str, str | int]) -> None:
    """Record the size and SHA-256 of every file in a folder, and where they come from."""
    files = {
        path.name: FileRecord(path.stat().st_size, sha256_of(path))._asdict()
        for path in sorted(folder.iterdir())
    }
    text = json.dumps({**provenance, "files": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_contents(folder: Path) -> None:
    """Read every file and compare its SHA-256 with the manifest's.

    Raises:
        ModelFileError: the manifest or a file is missing, unreadable or not as it was made.
    """
    for path, record in check_sizes(folder).items():
        with _unreadable_is_damaged(path):
            found = sha256_of(path)
        if found != record.sha256:
            raise _damaged(path, f"its SHA-256 is {found[:12]}... and not what the manifest says")


def check_sizes(folder: Path, required: Sequence[str] = REQUIRED_FILES) -> dict[Path, FileRecord]:
    """Compare the files' sizes with the manifest's records; return these by path.

    Args:
        folder: the kept model.
        required: names of files that the manifest must list.

    Raises:
        ModelFileError: the manifest or a file is missing, unreadable or of another size.
    """
    records = {folder / name: record for name, record in _read_manifest(folder / MANIFEST, required).items()}
    for path, record in records.items():
        with _unreadable_is_damaged(path):
            size = path.stat().st_size
        if size != record.size:
            raise _damaged(path, f"it has {size} bytes and not {record.size}")
    return records


def _read_manifest(path: Path, required: Sequence[str]) -> dict[str, FileRecord]:
    with _unreadable_is_damaged(path):
        content = path.read_bytes()
    try:
        records = {
            name: FileRecord(int(entry["size"]), str(entry["sha256"]))
            for name, entry in json.loads(content)["files"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, "it is no manifest") from error
    for name in required:
        if name not in records:
            raise _damaged(path, f"it does not list {name}")
    return records


@contextlib.contextmanager
def _unreadable_is_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _damaged(path, reason_of(error)) from error


def reason_of(error: OSError) -> str:
    """What an operating system error says, in one line and without the path."""
    return error.strerror or " ".join(str(error).split())


def _damaged(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"{path}: this file of the demo model is damaged: {what}; {_REPAIR}")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file of any size, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
