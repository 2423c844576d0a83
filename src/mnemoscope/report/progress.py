"""Progress bars of a study, on stderr or in a notebook."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tqdm.auto import tqdm
from typing_extensions import Self

if TYPE_CHECKING:
    from mnemoscope.study.runner import Progress


# Seconds between two lines in a log.
IN_A_LOG = 30.0


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
            self._bar = tqdm(
                total=progress.total,
                initial=progress.done,
                desc=progress.phase,
                unit=" prompts",
                mininterval=0.1 if sys.stderr.isatty() else IN_A_LOG,
            )
        self._bar.set_postfix_str(_by_relation(progress), refresh=False)
        self._bar.update(progress.done - self._bar.n)


def _by_relation(progress: Progress) -> str:
    """Return the progress of each relation, such as `capital 12/40, month 3/9`."""
    return ", ".join(f"{name} {done}/{total}" for name, (done, total) in progress.relations.items())
