"""Manifest of a folder of the cache: the size and SHA-256 of every file, and checks of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
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
