"""Openings of a GGUF file in processes of their own, forked from one that has everything imported."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from forks import FORKS

# A process that is to be killed is killed before this function of this module.
POINTS = {
    "conversion": ("gguf_cache", "convert_gguf"),
    "tokenizer": ("gguf_conversion", "_convert_tokenizer"),
    "manifest": ("gguf_cache", "write_manifest"),
    "rename": ("cache", "install"),
}


def start_opening(gguf: Path, folder: Path, log: Path, killed_at: str = "") -> BaseProcess:
    """Start a process that opens a file with a cache folder, and logs each conversion in a line."""
    process = FORKS.Process(target=_open, args=(gguf, folder, log, killed_at))
    process.start()
    return process


def _open(gguf: Path, folder: Path, log: Path, killed_at: str) -> None:
    os.environ["MNEMOSCOPE_CACHE"] = str(folder)
    from mnemoscope.model import cache, gguf_cache, gguf_conversion
    from mnemoscope.model.loading import open_model

    modules = {"cache": cache, "gguf_cache": gguf_cache, "gguf_conversion": gguf_conversion}
    convert = gguf_cache.convert_gguf

    def logged(path: Path, made: Path) -> None:
        with log.open("a") as stream:
            stream.write("converted\n")
        time.sleep(0.5)  # for others to come while this one is at it
        convert(path, made)

    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    gguf_cache.convert_gguf = logged
    if killed_at:
        module, name = POINTS[killed_at]
        setattr(modules[module], name, kill)
    open_model(gguf)
