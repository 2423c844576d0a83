"""Words for results, the same on every surface: effects, certificates, targets, numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pandas as pd

from mnemoscope.report.tokens import visible
from mnemoscope.results.attribution import Attribution, ContinuationAttribution
from mnemoscope.results.columns import records
from mnemoscope.results.query import QueryTables
from mnemoscope.results.targets import Cost, Target, Targets

if TYPE_CHECKING:
    from rich.text import Text


def places(scores: Iterable[float]) -> int:
    """Decimal places that give the largest of the scores three significant digits, 3 to 8."""
    largest = max((abs(score) for score in scores if math.isfinite(score)), default=0.0)
    if largest == 0.0:
        return 3
    return min(max(3, 2 - math.floor(math.log10(largest))), 8)


def signed(score: float, decimals: int = 3) -> str:
    """A score with its sign: `+2.067`, `−0.223`."""
    if math.isnan(score):
        return "n/a"
    if math.isinf(score):
        return "+∞" if score > 0 else "−∞"
    # Adding nothing turns a negative zero into a positive one.
    return f"{round(score, decimals) + 0.0:+.{decimals}f}".replace("-", "−")


def plain_number(number: float, significant: int = 3) -> str:
    """A number of any size, without a plus: `−0.158`, `3.1e−06`."""
    return f"{number:.{significant}g}".replace("-", "−").replace("inf", "∞").replace("nan", "n/a")


def percent(probability: float) -> str:
    """A probability as `85.4 %`, or `2e−05 %` below a tenth of a percent."""
    hundredths = 100 * probability
    return f"{hundredths:.1f} %" if hundredths >= 0.1 else f"{plain_number(hundredths, 2)} %"


def divergence(nats: float) -> str:
    """A KL divergence as `0.0123`, or `4.2e−05` below a thousandth of a nat."""
    return f"{nats:.4f}" if nats >= 1e-3 or nats == 0 else plain_number(nats, 2)


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


def value_name(targets: Targets) -> str:
    """What scores are changes of, to be followed by the tokens."""
    return "log-odds" if targets.against else "log p"


def targets_words(targets: Targets) -> str:
    """Such as `␣Paris`, `any of ␣Paris, ␣Lutetia` or `␣Paris over ␣London`."""
    sides = (targets.answers, targets.against)
    return " over ".join(
        any_of(side) + ", ".join(visible(target.text) for target in side) for side in sides if side
    )


def targets_text(targets: Targets) -> Text:
    """The same for a terminal."""
    from rich.text import Text

    from mnemoscope.report.terminal import token_text

    sides = [
        Text(any_of(side), "dim") + Text(", ").join(token_text(target.text, "bold") for target in side)
        for side in (targets.answers, targets.against)
        if side
    ]
    return Text(" over ", "dim").join(sides)


def any_of(side: tuple[Target, ...]) -> str:
    """Words before the tokens of one side."""
    return "any of " if len(side) > 1 else ""


def value_facts(targets: Targets) -> dict[str, str]:
    """The value that scores are changes of, by what its numbers are called."""
    if targets.one is not None:
        return target_facts(targets.one)
    if targets.against:
        return {"log-odds": plain_number(targets.value)}
    probability = sum(target.probability for target in targets.answers)
    return {"probability": percent(probability), "log p": plain_number(targets.value)}


def target_facts(target: Target) -> dict[str, str]:
    """What the model says of one token."""
    return {
        "rank": f"{target.rank:,}",
        "probability": percent(target.probability),
        "log p": plain_number(target.log_probability),
        "id": str(target.id),
    }


# The tables of parts that are searched for, with what they hold.
SEARCHED = {
    "ffn_neurons": "FFN neurons",
    "attention_neurons": "attention neurons at positions",
    "attention_neurons_summed": "attention neurons",
    "positions": "heads at positions",
}

QUERY_SCORE = (
    "query score: nats of the value neurons' scores that go through a part, by its share of what they read"
)
NOTHING_READ = "What activates the value neurons: what this model's neurons read could not be found."
_VALUE_NEURON = ("layer", "neuron", "head", "dim", "position")


def what_is_proven(result: Attribution) -> list[str]:
    """How sure the top lists are, a line for each search."""
    by_total = Effects.of(result).order == "total"
    lines = []
    for name, what in SEARCHED.items():
        cost = result.costs.get(name)
        if cost is None:
            continue
        both_ends = not getattr(result, f"suppressing_{name}").empty
        how = " by total effect, all computed" if by_total else f", {cost.exact:,} scored exactly"
        n_listed = len(getattr(result, name))
        lines.append(found_words(certificate(result), both_ends, n_listed, cost, what) + how)
    return lines


def certificate(result: Attribution | ContinuationAttribution) -> str:
    """Say how sure the lists are, such as `certified to 4e-04 nats: exact`."""
    if not result.certified:
        return "not certified: best found"
    within = "" if result.tolerance is None else f" to {result.tolerance:.0e} nats"
    return f"certified{within}: exact"


def found_words(verdict: str, both_ends: bool, n_listed: int, cost: Cost, what: str) -> str:
    """Describe a list and its search, such as `certified: exact top 10 of 46,080 FFN neurons`."""
    ends = "top and bottom" if both_ends else "top"
    return f"{verdict} {ends} {n_listed:,} of {cost.parts:,} {what}"


def sum_of_layers(result: Attribution) -> str:
    """Where what is asked comes from, and what rounding the layers' sum leaves."""
    start, end = plain_number(result.value_of_embeddings), plain_number(result.targets.value)
    asked = f"{value_name(result.targets)} of {targets_words(result.targets)}"
    path = f"{asked}: {start} from embeddings, {end} at the end"
    if result.telescoping_error is None:
        return path
    return f"{path}; the layers add up to the difference within {abs(result.telescoping_error):.0e}"


def queries_are_missing(result: Attribution) -> bool:
    """Whether query neurons were asked for and could not be had."""
    return result.query_neurons is None and bool(result.provenance.options.get("query"))


def value_neurons_asked(tables: QueryTables) -> str:
    """How many value neurons were asked what activates them, and how many of them were skipped."""
    names = [name for name in _VALUE_NEURON if name in tables.value_neurons]
    n_asked = len(tables.value_neurons[names].drop_duplicates())
    return f"{n_asked} asked, {len(tables.skipped) or 'none'} skipped"


def value_neurons_skipped(tables: QueryTables) -> str:
    """The value neurons that query scores leave out, by name; nothing if there is none."""
    if tables.skipped.empty:
        return ""
    names = ", ".join(_names(tables.skipped))
    return f"left out because what they read nearly cancels: {names}"


def _names(neurons: pd.DataFrame) -> list[str]:
    """Such as `24.1005`, or `23.4.51 at 3` for a neuron that reads the token at position 3."""
    rows = records(neurons, tuple(neurons.columns))
    if "neuron" in neurons:
        return [f"{row['layer']}.{row['neuron']}" for row in rows]
    return [f"{row['layer']}.{row['head']}.{row['dim']} at {row['position']}" for row in rows]
