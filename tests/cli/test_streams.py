"""Standard streams as a shell may give them: closed, full, and of any width."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from command_line import COMMAND, printed
from mnemoscope.cli import output
from mnemoscope.testing import words

FULL = "cannot write to stdout: No space left on device; send it elsewhere"
FULL_DISK = Path("/dev/full")
NO_MODEL = ["predict", "-", "--model", "/no/such/model"]

posix = pytest.mark.skipif(not FULL_DISK.exists(), reason="the shell and /dev/full are of Linux")


def ended(arguments: list[str], redirection: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a command does whose streams a shell redirects."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@posix
@pytest.mark.process
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--version", "--help"])
def test_a_full_disk_is_told_in_one_line(command: str, unbuffered: str) -> None:
    done = ended([command], ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (2, f"error: {FULL}\n")


@posix
def test_results_on_a_full_disk_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for write in (
        lambda: output.write_json({"a": 1}),
        lambda: output.write_drawn(lambda console: console.print("a")),
    ):
        with FULL_DISK.open("w", encoding="utf-8") as full:
            monkeypatch.setattr(sys, "stdout", full)
            with pytest.raises(output.OutputError, match="No space left on device; send it elsewhere"):
                write()


@posix
@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "redirection", "code"),
    [
        (["--version"], ">&-", 0),
        (["--version"], ">&- 2>&- <&-", 0),
        (["nosuch", "--json"], "2>&-", 2),
        (["nosuch"], "2>/dev/full", 2),
        (NO_MODEL, "<&-", 2),
    ],
    ids=str,
)
def test_closed_streams_change_no_exit_code(arguments: list[str], redirection: str, code: int) -> None:
    done = ended(arguments, redirection)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@posix
@pytest.mark.process
def test_a_stdin_that_cannot_be_read_is_told() -> None:
    done = ended(NO_MODEL, "0>/dev/null")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: cannot read stdin: Bad file descriptor; give PROMPT in quotes\n"


@pytest.mark.parametrize(("columns", "width"), [("0", 100), ("wide", 100), ("", 100), ("20", 40), ("70", 70)])
def test_the_width_is_that_of_columns_where_it_is_one(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    widths = []

    def draw(console: Console) -> None:
        widths.append(console.width)

    output.write_drawn(draw)
    assert widths == [width]


def test_a_width_of_none_hides_nothing(llama_folder: str) -> None:
    command = ["predict", words(5, 17, 80), "--top", "2", "--model", llama_folder]
    assert printed(*command, COLUMNS="0") == printed(*command)
