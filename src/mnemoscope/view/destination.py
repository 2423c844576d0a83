"""Where results are written: names are checked before any work, and nothing heavy is imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mnemoscope.atomic import write_atomically
from mnemoscope.errors import OutputError

ATTRIBUTION_ENDINGS = (".json", ".parquet", ".html")
CONTINUATION_ENDINGS = (".json",)
LINKS_ENDINGS = (".json", ".graphml")
CHART_FORMS = ("svg", "png")


def check_destination(path: Path, endings: tuple[str, ...]) -> Path:
    """Tell early that a result cannot be written there.

    Returns:
        The path itself, with a leading `~` expanded.

    Raises:
        OutputError: another ending than one of those, or no such folder.
    """
    path = path.expanduser()
    if path.suffix.lower() not in endings:
        raise OutputError(f"cannot write {path}: name a file that ends in {either(endings)}")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: create the folder {path.parent} first")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder, choose another name")
    return path


def check_folder(folder: Path) -> Path:
    """Tell early that files cannot be written there; the folder itself need not be there yet.

    Returns:
        The folder itself, with a leading `~` expanded.

    Raises:
        OutputError: its parent is not there, or there is a file of its name.
    """
    folder = folder.expanduser()
    if not folder.parent.is_dir():
        raise OutputError(f"cannot write {folder}: create the folder {folder.parent} first")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write {folder}: it is a file, choose another name")
    return folder


def write_into(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """Write files by name into a folder, which is made if it is not there.

    Raises:
        OutputError: it cannot be made, or the disk is full.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror or error}; choose another folder"
        ) from error
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return folder


def either(endings: tuple[str, ...]) -> str:
    """Such as `.json, .parquet or .html`."""
    return " or ".join([", ".join(endings[:-1]), endings[-1]] if endings[1:] else endings)
