"""Which effects a result has, what they are called, and which of them its lists are ordered by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mnemoscope.attribution.result import Attribution
from mnemoscope.view.numbers import signed

# What people read, by column of the tables.
NAMES = {"score": "direct", "total": "total", "mediated": "mediated"}
MEANINGS = {
    "score": "what the part itself writes towards the target",
    "total": "how far log p falls without it, to first order",
    "mediated": "total minus direct, what later layers make of it",
}


@dataclass(frozen=True)
class Effects:
    """The effects that there are to show.

    Attributes:
        order: the column that the lists are ordered by, best first.
        totals: whether the total effects were computed.
    """

    order: Literal["score", "total"]
    totals: bool

    @classmethod
    def of(cls, result: Attribution) -> Effects:
        """What the result was made with; the numbers decide, whatever its options say."""
        totals = bool(result.layers["total"].notna().any())
        by_total = totals and result.provenance.options.get("by") == "total"
        return cls("total" if by_total else "score", totals)

    @property
    def name(self) -> str:
        """Of the effect that the lists are ordered by."""
        return NAMES[self.order]

    @property
    def in_nats(self) -> str:
        """What a number of that effect is, to be followed by the target."""
        if self.order == "score":
            return "nats they add to log p of "
        return "nats lost without them, to first order, from log p of "

    def columns(self, both: bool = True) -> tuple[str, ...]:
        """The columns to show where there is room for both effects, or for one only."""
        return ("score", "total") if self.totals and both else (self.order,)

    def with_mediated(self) -> tuple[str, ...]:
        """The columns to show where there is room for all."""
        return (*self.columns(), "mediated") if self.totals else self.columns()


def effect_text(column: str, value: float, decimals: int) -> str:
    """An effect as a number; one that was not computed is nothing."""
    return "" if column != "score" and math.isnan(value) else signed(value, decimals)
