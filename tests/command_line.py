"""The command line in a process of its own, for the tests.

A process that is forked from the tests' own has everything imported already, which costs a fresh one five
seconds; all else is as in a fresh one: arguments, output, exit code.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import traceback
from typing import IO, NoReturn

COMMAND = [sys.executable, "-m", "mnemoscope"]
_TIMEOUT = 300
_READ_AT_START = {"PYTHONIOENCODING", "HF_ENDPOINT", "HF_HOME"}  # by Python and by huggingface_hub


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a command does where a terminal is 100 cells wide."""
    wide = {"COLUMNS": "100", "TOKENIZERS_PARALLELISM": "false", **environment}
    if _READ_AT_START & environment.keys():
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, **wide},
            timeout=_TIMEOUT,
            check=False,
        )
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            _become(arguments, wide, output, errors)
        code = _wait(child)
        texts = [_content(file) for file in (output, errors)]
    return subprocess.CompletedProcess(list(arguments), code, *texts)


def printed(*arguments: str, **environment: str) -> str:
    """The output of a command that must succeed and say nothing on stderr."""
    done = run(*arguments, **environment)
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
    arguments: tuple[str, ...], environment: dict[str, str], output: IO[bytes], errors: IO[bytes]
) -> NoReturn:
    code = 1
    try:
        os.environ.update(environment)
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        sys.argv = ["mnemoscope", *arguments]
        sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123 - as long as the process
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


def _wait(child: int) -> int:
    until = time.monotonic() + _TIMEOUT
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise TimeoutError("the command did not end")


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8")
