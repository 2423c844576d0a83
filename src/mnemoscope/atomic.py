"""Files that are written whole or not at all, and may be read by whom the umask lets."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from mnemoscope.errors import OutputError

# Ends the name of a file that is still being written; a killed process leaves it behind.
PARTIAL = ".part"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file (or what a link points to) in one step, so no reader sees half of it.

    Raises:
        OutputError: the folder cannot be written, or the disk is full; what was there is kept.
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
    """Give the weights in a model's folder the mode of its config, which follows the umask.

    safetensors makes its files for the owner alone, whatever the umask.
    """
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)
