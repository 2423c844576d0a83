"""Where the commands write: results to stdout, whatever its encoding; all else to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from mnemoscope.errors import FactsError, OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from mnemoscope.api import Model
    from mnemoscope.cli.progress import WorkLine
    from mnemoscope.study.facts import BadLine, FactFile, ResolvedFact


_PIPED_WIDTH = 100
_LEAST_WIDTH = 40


@dataclass
class Loudness:
    """Amount of output beside the result.

    Attributes:
        quiet: no notes and no progress bars.
        verbose: details too, and the traceback of an error.
    """

    quiet: bool = False
    verbose: bool = False


loudness = Loudness()


def set_loudness(quiet: bool, verbose: bool) -> None:
    """Set how much the commands of this process say."""
    loudness.quiet, loudness.verbose = quiet, verbose


def tell(line: str) -> None:
    """Say something beside the result, on stderr; nothing with `--quiet`."""
    if not loudness.quiet:
        warn(line)


def explain(line: str) -> None:
    """Say a detail on stderr with `--verbose`."""
    if loudness.verbose:
        warn(line)


def warn(line: str) -> None:
    """Say something on stderr that bears on the result, above the line of progress."""
    if _working:
        _working[-1].write(line)
    else:
        sys.stderr.write(f"{line}\n")


def shows_progress() -> bool:
    """Return whether progress bars are drawn: on a terminal, without `--quiet`."""
    return sys.stderr.isatty() and not loudness.quiet


# The line of progress of the work under way; at most one.
_working: list[WorkLine] = []


def stage(text: str) -> None:
    """Name what the work under way does now, on its line of progress."""
    if _working:
        _working[-1].stage(text)


def end_progress() -> None:
    """Remove the line of progress, for work that waits for others from now on."""
    while _working:
        _working.pop().close()


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Do the work of a command: what libraries print goes to stderr, and a line there shows that it works.

    On a terminal the line ticks twice a second; elsewhere there is one every half minute.
    """
    from mnemoscope.cli.progress import WorkLine

    if not loudness.quiet and not _working:
        _working.append(WorkLine("starting").started())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        end_progress()


def write_result(json: bool, to_json: Callable[[], dict[str, Any]], draw: Callable[[Console], None]) -> None:
    """Write a result as one JSON object or drawn on a console."""
    if json:
        write_json(to_json())
    else:
        write_drawn(draw)


def write_drawn(draw: Callable[[Console], None]) -> None:
    """Write what is drawn on a console as wide as the terminal."""
    write(_drawn(draw, sys.stdout))


def tell_drawn(draw: Callable[[Console], None]) -> None:
    """Say something drawn beside the result, on stderr."""
    if loudness.quiet:
        return
    text = _drawn(draw, sys.stderr)
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _drawn(draw: Callable[[Console], None], stream: TextIO) -> str:
    from rich.console import Console

    console = Console(highlight=False, width=_width(stream), file=stream)
    with _written_to(stream), console.capture() as drawn:
        draw(console)
    return "".join(f"{line.rstrip(' ')}\n" for line in drawn.get().splitlines())


def _width(stream: TextIO) -> int:
    """Return the width to draw in: `COLUMNS`, the terminal's, or 100 cells; at least 40."""
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else 0
    if not width and stream.isatty():
        with contextlib.suppress(OSError):  # a terminal without a size
            width = os.get_terminal_size(stream.fileno()).columns
    return max(width or _PIPED_WIDTH, _LEAST_WIDTH)


def write_json(value: dict[str, Any]) -> None:
    """Write one object as a line of JSON, in ASCII where stdout has nothing more."""
    from mnemoscope._io import json_text

    text = json_text(value)
    if not _can_write(text):
        text = json_text(value, ascii_only=True)
    write(f"{text}\n")


def write(text: str) -> None:
    """Write to stdout whatever its encoding; a reader that has gone away is no error."""
    if not _can_write(text):
        from mnemoscope.report.tokens import in_ascii

        encoding = sys.stdout.encoding
        text = in_ascii(text).encode(encoding, "backslashreplace").decode(encoding)
    with _written_to(sys.stdout):
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def _written_to(stream: TextIO) -> Iterator[None]:
    """End the command where a standard stream takes no output: a reader that has gone away is no error."""
    try:
        yield
    except BrokenPipeError:
        _discard(stream)
        raise typer.Exit(141) from None
    except OSError as error:
        raise OutputError(_fault(stream, error)) from error


def _fault(stream: TextIO, error: OSError) -> str:
    _discard(stream)
    return f"cannot write to {stream.name.strip('<>')}: {error.strerror or error}; send it elsewhere"


def open_closed_streams() -> None:
    """Have a standard stream that is closed read or write nothing, as `/dev/null` does."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - for the process


def output_fault() -> str:
    """Return what is wrong with a standard stream that help or an error could not be written to; else ""."""
    found = ""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.write("")
            stream.flush()  # what could not be written is still in the buffer
        except OSError as error:
            found = found or _fault(stream, error)
    return found


def _discard(stream: TextIO) -> None:
    """Write what a stream still holds, and all that comes, nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _can_write(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def resolved(model: Model, file: FactFile, path: Path) -> tuple[list[ResolvedFact], list[BadLine]]:
    """Resolve the facts of a file for a model; return them with every bad line, and print the new ones.

    Raises:
        FactsError: the model can read none of the facts.
    """
    from mnemoscope.study.facts import resolve

    facts, unread = resolve(model.language_model, file.facts)
    if not facts:
        first = unread[0]
        raise FactsError(f"this model can read none of the facts in {path}; {first.where}: {first.reason}")
    tell_bad(unread, path)
    return facts, [*file.bad_lines, *unread]


def tell_left_out(file: FactFile, path: Path) -> None:
    """Print the bad lines of a file, and the number of wordings that give no prompt."""
    tell_bad(file.bad_lines, path)
    if file.promptless:
        first = file.promptless[0]
        warn(f"{path}: {len(file.promptless):,} wordings give no prompt, first {first.where}: {first.reason}")


def tell_bad(lines: Sequence[BadLine], path: Path) -> None:
    """Print each bad line with its number and its mistake."""
    for bad in lines:
        warn(f"{path}, {bad.where}, is left out: {bad.reason}")
