"""Progress on stderr: a line that ticks while a command works, and the bars of a study."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from tqdm import tqdm
from typing_extensions import Self

from mnemoscope.cli.output import stage
from mnemoscope.report.tokens import visible

if TYPE_CHECKING:
    from mnemoscope.study.runner import Progress

_TICK = 0.5  # seconds between two states of the line on a terminal
_IN_A_LOG = 30.0  # seconds between two lines elsewhere


class WorkLine:
    """A line on stderr with the stage of the work and its seconds, renewed by a thread.

    Outside of terminals a line is added every half minute instead.
    """

    def __init__(self, stage: str) -> None:
        self._stage, self._begun = stage, time.monotonic()
        self._done = threading.Event()
        self._bar: tqdm | None = None
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def started(self) -> Self:
        """Show the line and start to renew it."""
        if sys.stderr.isatty():
            self._bar = tqdm(total=0, bar_format="{desc}", leave=False, file=sys.stderr, desc=self._text())
        self._thread.start()
        return self

    def close(self) -> None:
        """Remove the line."""
        self._done.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def stage(self, text: str) -> None:
        """Name what is done now; the seconds go on."""
        self._stage = text
        if self._bar is not None:
            self._bar.set_description_str(self._text())

    def write(self, line: str) -> None:
        """Write a line that stays, above this one."""
        if self._bar is None:
            sys.stderr.write(f"{line}\n")
        else:
            tqdm.write(line, file=sys.stderr)

    def _text(self) -> str:
        return f"{self._stage} · {time.monotonic() - self._begun:.0f} s"

    def _tick(self) -> None:
        while not self._done.wait(_TICK if self._bar is not None else _IN_A_LOG):
            if self._bar is not None:
                self._bar.set_description_str(self._text())
            else:
                sys.stderr.write(f"{self._text()}\n")
                sys.stderr.flush()


class StudyProgress:
    """Progress bar of each phase; the remaining time is estimated from the prompts of this run."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Show the number of prompts done in a phase."""
        if self._bar is None or self._phase != progress.phase:
            if self._bar is not None:
                self._bar.close()
            self._phase = progress.phase
            stage(progress.phase)
            self._bar = tqdm(
                total=progress.total,
                initial=progress.done,
                desc=progress.phase,
                unit=" prompts",
                mininterval=0.1 if sys.stderr.isatty() else _IN_A_LOG,
            )
        # Such as `capital 12/40, month 3/9`.
        each = (f"{visible(name)} {done}/{total}" for name, (done, total) in progress.relations.items())
        self._bar.set_postfix_str(", ".join(each), refresh=False)
        self._bar.update(progress.done - self._bar.n)
