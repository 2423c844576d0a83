"""The command line in a process of its own, for the tests.

A process that is forked from one that has everything imported costs no five seconds for that; all else is as
in a fresh one: arguments, output, exit code. It is not forked from the tests' own process: its other threads
may hold locks that nobody would ever open in the new one.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

COMMAND = [sys.executable, "-m", "mnemoscope"]
_TIMEOUT = 300
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["transformers.models.llama.modeling_llama", "mnemoscope.api", "mnemoscope.cli", "command_line"]
)
_READ_AT_START = {"PYTHONIOENCODING", "HF_ENDPOINT", "HF_HOME"}  # by Python and by huggingface_hub


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What a command does where a terminal is 100 cells wide."""
    wide = {"COLUMNS": "100", "TOKENIZERS_PARALLELISM": "false", **environment}
    if _READ_AT_START & environment.keys():
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, **wide},
            timeout=_TIMEOUT,
            check=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        given, output, errors = (Path(folder, name) for name in ("input", "output", "errors"))
        given.write_text(stdin, encoding="utf-8", newline="")
        files = given, output, errors
        process = _CONTEXT.Process(
            target=_become, args=(arguments, {**os.environ, **wide}, Path.cwd(), files)
        )
        process.start()
        process.join(_TIMEOUT)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError("the command did not end")
        texts = [file.read_text(encoding="utf-8") for file in (output, errors)]
    return subprocess.CompletedProcess(list(arguments), process.exitcode, *texts)


def printed(*arguments: str, stdin: str = "", **environment: str) -> str:
    """The output of a command that must succeed and say nothing on stderr."""
    done = run(*arguments, stdin=stdin, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(*arguments: str, **environment: str) -> str:
    """The one line a command that must be refused says."""
    done = run(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def _become(
    arguments: tuple[str, ...], environment: dict[str, str], folder: Path, files: tuple[Path, Path, Path]
) -> NoReturn:
    code = 1
    given, output, errors = files
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        for file, place in ((output, 1), (errors, 2)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), place)
        sys.argv = ["mnemoscope", *arguments]
        sys.stdin = given.open(encoding="utf-8")
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        from mnemoscope.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python does at the end of a process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
