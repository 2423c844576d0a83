"""What is checked of a file's name before any work; nothing heavy is imported for it."""

from __future__ import annotations

from pathlib import Path

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


def either(endings: tuple[str, ...]) -> str:
    """Such as `.json, .parquet or .html`."""
    return " or ".join([", ".join(endings[:-1]), endings[-1]] if endings[1:] else endings)
