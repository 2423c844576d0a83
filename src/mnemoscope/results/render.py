"""The one door from results to `report`: pages, charts and notebook summaries, imported when first drawn."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def report(module: str) -> Any:
    """A module of `mnemoscope.report` by its name below it.

    By name, as pandas does with plotting backends: results are data and import nothing that draws.
    """
    return import_module(f"mnemoscope.report.{module}")


class Displayed:
    """Mixin of results that notebooks show: a static picture and tables, or the terminal's text."""

    def _repr_html_(self) -> str:
        """HTML for notebooks, without scripts and requests."""
        return report("notebook").summary_html(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """HTML, and plain text for front ends without it."""
        return {"text/html": self._repr_html_(), "text/plain": report("notebook").summary_text(self)}
