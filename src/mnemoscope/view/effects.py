"""Which effects a result has, what they are called, and which of them its lists are ordered by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mnemoscope.attribution.result import Attribution
from mnemoscope.view.numbers import signed
from mnemoscope.view.targets import value_name

# What people read, by column of the tables.
NAMES = {"score": "direct", "total": "total", "mediated": "mediated"}


@dataclass(frozen=True)
class Effects:
    """The effects that there are to show.

    Attributes:
        order: the column that the lists are ordered by, best first.
        totals: whether the total effects were computed.
        value: what they are effects on, `"log p"` or `"log-odds"`.
    """

    order: Literal["score", "total"]
    totals: bool
    value: str

    @classmethod
    def of(cls, result: Attribution) -> Effects:
        """What the result was made with; the numbers decide, whatever its options say."""
        totals = bool(result.layers["total"].notna().any())
        by_total = totals and result.provenance.options.get("by") == "total"
        return cls("total" if by_total else "score", totals, value_name(result.targets))

    @property
    def name(self) -> str:
        """Of the effect that the lists are ordered by."""
        return NAMES[self.order]

    @property
    def in_nats(self) -> str:
        """What a number of that effect is, to be followed by the target."""
        if self.order == "score":
            return f"nats they add to {self.value} of "
        return f"nats lost without them, to first order, from {self.value} of "

    def meanings(self, columns: Iterable[str]) -> dict[str, str]:
        """What some columns hold, by what they are called."""
        meanings = {
            "score": "what the part itself writes towards the target",
            "total": f"how far {self.value} falls without it, to first order",
            "mediated": "total minus direct, what later layers make of it",
        }
        return {NAMES[column]: meanings[column] for column in columns}

    def columns(self, both: bool = True) -> tuple[str, ...]:
        """The columns to show where there is room for both effects, or for one only."""
        return ("score", "total") if self.totals and both else (self.order,)

    def with_mediated(self) -> tuple[str, ...]:
        """The columns to show where there is room for all."""
        return (*self.columns(), "mediated") if self.totals else self.columns()


def effect_text(column: str, value: float, decimals: int) -> str:
    """An effect as a number; one that was not computed is nothing."""
    return "" if column != "score" and math.isnan(value) else signed(value, decimals)
