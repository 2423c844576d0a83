"""Display of results: short texts, and the one door to `report` (pages, charts, notebooks), by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnemoscope.results.parts import row_name

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 60  # characters of a prompt
_STRONGEST = 3  # rows of a table
_NO_SCORES = {"layer", "kind", "head", "dim", "neuron", "position", "token", "expert"}


def report(module: str) -> Any:
    """A module of `mnemoscope.report` by its name below it.

    By name, as pandas does with plotting backends: results are data and import nothing that draws.
    """
    return import_module(f"mnemoscope.report.{module}")


class Displayed(ABC):
    """Mixin of results with a short `repr`, which notebooks show as a static picture and tables."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} " + "\n  ".join(self._short()) + ">"

    @abstractmethod
    def _short(self) -> list[str]:
        """Return the lines of `repr`: the prompt, the targets, the strongest parts."""

    def _repr_html_(self) -> str:
        """HTML for notebooks, without scripts and requests."""
        return report("notebook").summary_html(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """HTML, and plain text for front ends without it."""
        return {"text/html": self._repr_html_(), "text/plain": report("notebook").summary_text(self)}


def quoted(prompt: str) -> str:
    """Return a prompt in quotes, without the middle of a long one."""
    half = _LONGEST // 2
    return repr(prompt if len(prompt) <= _LONGEST else f"{prompt[:half]} … {prompt[-half:]}")


def score_column(table: pd.DataFrame) -> str:
    """Return the column that a table of parts is sorted by: the first that is no part of a part's name."""
    return next(str(column) for column in table if column not in _NO_SCORES)


def strongest(name: str, table: pd.DataFrame, by: str | None = None) -> str:
    """Return the first rows of a table of parts on a line, such as `heads: 23.4 +1.2, 20.1 +0.9`.

    Args:
        name: name of the parts.
        table: table of parts, best first.
        by: column of the number; `score_column` if None.
    """
    number = by or score_column(table)
    rows = table.head(_STRONGEST).to_dict("records")
    parts = ", ".join(f"{row_name(row)} {row[number]:+.3g}" for row in rows)
    return f"{name}: {parts or 'none'}"
