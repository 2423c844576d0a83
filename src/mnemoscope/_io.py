"""Atomic files, strict JSON, checks of output paths, and progress bars."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mnemoscope.errors import OutputError

# Suffix of a file that is being written; a killed process leaves it behind.
PARTIAL = ".part"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file (or the target of a link) in one step, so that no reader sees half of it.

    Raises:
        OutputError: the folder cannot be written, or the disk is full; the old file is kept.
    """
    final = Path(os.path.realpath(path))
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        try:
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def give_usual_modes(folder: Path) -> None:
    """Set the mode of the weight files in a model's folder to that of its config, which follows the umask.

    safetensors makes files that only their owner can read, whatever the umask.
    """
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: Any, *, ascii_only: bool = False, indent: int | None = None) -> str:
    r"""Write plain objects and NumPy numbers as strict JSON, on one line unless `indent` is given.

    NaN becomes `null`, infinities become the strings `"Infinity"` and `"-Infinity"`, a lone
    surrogate its `\uXXXX` escape.

    >>> json_text({"score": float("nan"), "token": "é"})
    '{"score": null, "token": "é"}'
    """
    try:
        text = _strict(value, ascii_only, indent)
    except ValueError:
        text = _strict(_finite(value), ascii_only, indent)
    return _LONE_SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def _strict(value: Any, ascii_only: bool, indent: int | None) -> str:
    return json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, default=_to_plain, indent=indent)


def _to_plain(value: Any) -> Any:
    """Convert a NumPy number or array to a Python object."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


ATTRIBUTION_ENDINGS = (".json", ".parquet", ".csv", ".html")
COMPARISON_ENDINGS = (".json", ".csv", ".html")
PLAIN_ENDINGS = (".json", ".csv")
LINKS_ENDINGS = (".json", ".csv", ".graphml")
CHART_FORMS = ("svg", "png")


def check_destination(path: Path, endings: tuple[str, ...]) -> Path:
    """Check before the work that a result can be written to a path.

    Returns:
        The path, with a leading `~` expanded.

    Raises:
        OutputError: the path has another ending, is a folder, or its folder does not exist.
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
    """Check before the work that files can be written to a folder, which need not exist yet.

    Returns:
        The folder, with a leading `~` expanded.

    Raises:
        OutputError: the parent does not exist, or the path is a file.
    """
    folder = folder.expanduser()
    if not folder.parent.is_dir():
        raise OutputError(f"cannot write {folder}: create the folder {folder.parent} first")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write {folder}: it is a file, choose another name")
    return folder


def write_into(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """Write files by name into a folder, which is created if need be.

    Raises:
        OutputError: the folder cannot be created, or the disk is full.
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
    """Join file endings for a message: `.json, .parquet or .html`."""
    return " or ".join([", ".join(endings[:-1]), endings[-1]] if endings[1:] else endings)


class ProgressBars:
    """Progress bars on stderr, one for each kind of part."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` columns of a kind are done."""
        bar = self.bars.setdefault(name, tqdm(total=total, desc=name))
        bar.update(done - bar.n)
        if done == total:
            bar.close()
