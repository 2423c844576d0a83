"""Files of facts: bad lines are printed on stderr, and the good ones are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnemoscope.cli.output import warn
from mnemoscope.errors import FactsError

if TYPE_CHECKING:
    from mnemoscope.api import Model
    from mnemoscope.study.facts import BadLine, FactFile, ResolvedFact


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
