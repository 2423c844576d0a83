"""What a notebook shows of a result."""

from __future__ import annotations

from typing import Any


class Displayed:
    """A result that shows itself: a static picture and tables in a notebook, its terminal view elsewhere."""

    def _repr_html_(self) -> str:
        """For notebooks; it needs no script and fetches nothing."""
        from mnemoscope.view.notebook import summary_html

        return summary_html(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """The same, and text for where there is no HTML."""
        from mnemoscope.view.notebook import summary_text

        return {"text/html": self._repr_html_(), "text/plain": summary_text(self)}
