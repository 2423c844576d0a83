"""The command line for the tests: what a command prints where, and how it ends.

`run` calls a command in the tests' own process, with arguments, environment, streams, warnings and exit code
as in one of its own, so that nothing is imported again; the demo model is the session's, which is open. A
true process is for what only that has: signals, pipes, bytes, what Python reads when it starts.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO
from unittest import mock

import torch

import mnemoscope as ms
from mnemoscope import api
from mnemoscope.cli import main
from mnemoscope.model.demo import ensure_demo
from support import demo_model

COMMAND = [sys.executable, "-m", "mnemoscope"]
_TIMEOUT = 300
_TERMINAL = {"COLUMNS": "100", "TOKENIZERS_PARALLELISM": "false"}
_IGNORED_BY_PYTHON = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What a command does where a terminal is 100 cells wide."""
    with contextlib.ExitStack() as stack:
        given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
        output, errors = (_stream(stack, strictness) for strictness in ("strict", "backslashreplace"))
        for name, value in (("stdin", given), ("stdout", output), ("stderr", errors)):
            stack.enter_context(mock.patch.object(sys, name, value))
        stack.enter_context(mock.patch.object(sys, "argv", ["mnemoscope", *arguments]))
        stack.enter_context(mock.patch.dict(os.environ, {**_TERMINAL, **environment}))
        stack.enter_context(_told_on(errors))
        stack.enter_context(_threads_again())
        stack.enter_context(demo_stays_open())
        code = _ended(errors)
        return subprocess.CompletedProcess(list(arguments), code, _text(output), _text(errors))


def run_apart(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What a command does in a process of its own, where a terminal is 100 cells wide."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **_TERMINAL, **environment},
        timeout=_TIMEOUT,
        check=False,
    )


def printed(*arguments: str, stdin: str = "", **environment: str) -> str:
    """The output of a command that must succeed and say nothing on stderr."""
    return succeeded(run(*arguments, stdin=stdin, **environment))


def refused(*arguments: str, **environment: str) -> str:
    """The one line a command that must be refused says."""
    return told(run(*arguments, **environment))


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that must have succeeded and said nothing on stderr but how long it takes."""
    # One such line every half minute, which a busy machine may reach.
    told = re.sub(r"^.+ · \d+ s\n", "", done.stderr, flags=re.MULTILINE)
    assert (done.returncode, told) == (0, "")
    return done.stdout


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command must have been refused with."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(("error: ", '{"error": '))
    assert done.stderr.count("\n") == 1
    return done.stderr


@contextlib.contextmanager
def demo_stays_open() -> Iterator[None]:
    """Have `ms.load`, which commands call too, give the demo model that is open, unless an option is set."""
    load = api.load

    def opened(model: Any = "demo", **options: Any) -> ms.Model:
        if model != "demo" or any(options.values()):
            return load(model, **options)
        ensure_demo()  # as the package does; it fails in a test that is not marked `demo`
        return demo_model()

    with mock.patch.object(api, "load", opened):
        yield


def _stream(stack: contextlib.ExitStack, strictness: str) -> Any:
    return stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors=strictness))


def _text(stream: TextIO) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def _ended(errors: TextIO) -> int:
    """Call the command line, and return the exit code that Python would end with."""
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:  # noqa: BLE001 - as Python does at the end of a process
        traceback.print_exc(file=errors)
        return 1
    return 0


@contextlib.contextmanager
def _told_on(errors: TextIO) -> Iterator[None]:
    """Have warnings and logs written where a process that began now would write them."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [
        handler
        for logger in loggers
        for handler in getattr(logger, "handlers", ())
        if type(handler) is logging.StreamHandler
    ]
    before = [handler.setStream(errors) for handler in handlers]
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in _IGNORED_BY_PYTHON:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = _show
        try:
            yield
        finally:
            for handler, stream in zip(handlers, before, strict=True):
                if stream is not None:
                    handler.setStream(stream)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


@contextlib.contextmanager
def _threads_again() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
