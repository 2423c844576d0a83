"""Files of facts, as several commands read them: bad lines are told and the good ones are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnemoscope.cli.output import tell
from mnemoscope.errors import FactsError

if TYPE_CHECKING:
    from mnemoscope.api import Model
    from mnemoscope.study.facts import BadLine, FactFile, ResolvedFact


def resolved(model: Model, file: FactFile, path: Path) -> tuple[list[ResolvedFact], list[BadLine]]:
    """The facts as the model reads them, and every bad line of the file; the new ones are told.

    Raises:
        FactsError: the model can read none of them.
    """
    from mnemoscope.study.facts import resolve

    facts, unread = resolve(model.language_model, file.facts)
    if not facts:
        first = unread[0]
        raise FactsError(f"this model can read none of the facts in {path}; {first.where}: {first.reason}")
    tell_bad(unread, path)
    return facts, [*file.bad_lines, *unread]


def tell_left_out(file: FactFile, path: Path) -> None:
    """Each bad line, and how much gives no prompt by its nature."""
    tell_bad(file.bad_lines, path)
    if file.promptless:
        first = file.promptless[0]
        tell(f"{path}: {len(file.promptless):,} wordings give no prompt, first {first.where}: {first.reason}")


def tell_bad(lines: Sequence[BadLine], path: Path) -> None:
    """Each bad line with its number and what is wrong with it."""
    for bad in lines:
        tell(f"{path}, {bad.where}, is left out: {bad.reason}")
