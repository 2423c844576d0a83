"""Attribution methods in a terminal: the list, their costs, and their comparison."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Console, RenderableType
from rich.text import Text

from mnemoscope.attribution.methods.base import Method
from mnemoscope.report.terminal import (
    Column,
    Row,
    print_blocks,
    question_text,
    table_of,
    title_text,
    token_text,
)
from mnemoscope.report.text import (
    comparison_rows,
    divergence,
    enumerated,
    method_name,
    percent,
    plain_number,
    signed,
    zeroed_words,
)
from mnemoscope.report.tokens import visible
from mnemoscope.results.ranking import MethodCost

if TYPE_CHECKING:
    from mnemoscope.study.comparison import Comparison


_WITH_TITLES = 112  # cells from which the table of methods shows their titles
_SYMBOLS = (
    "w: the target. m: a neuron's coefficient, a: with its sign, fc2: its column, v = m fc2, x: the state "
    "that v is added to, bs: read out, g: the gradient by m."
)
_NOT_COUNTED = "Not counted: passes that zero the neurons one by one, together and on plain text."


def render_methods(methods: Iterable[Method], console: Console) -> None:
    """Print the methods with their formulas."""
    rows: list[Row] = [{key: visible(text) for key, text in method.to_json().items()} for method in methods]
    columns = [
        Column("name", lambda row: Text(row["name"], "bold")),
        Column("formula", lambda row: row["formula"], stretches=True),
    ]
    if console.width >= _WITH_TITLES:
        columns.insert(1, Column("title", lambda row: row["title"]))
    table = table_of(title_text("Methods", "that score neurons"), rows, columns)
    print_blocks(console, table, Text(_SYMBOLS, "dim"))


def render_estimates(estimates: Sequence[tuple[Method, MethodCost]], n_facts: int, console: Console) -> None:
    """Print the estimated forward passes and memory of each method."""
    rows: list[Row] = [{"method": method, "cost": estimate} for method, estimate in estimates]
    columns = [
        Column("", lambda row: visible(method_name(row["method"].label, row["method"].title))),
        Column("forward passes", lambda row: _passes(row["cost"].passes), right=True),
        Column("memory", lambda row: f"{row['cost'].memory / 1e6:,.0f} MB", right=True),
        Column("", lambda row: Text(" ".join(row["cost"].note.split()), "dim"), stretches=True),
    ]
    note = f"each on the first of {n_facts:,} facts" if n_facts > 1 else "beyond the first pass"
    console.print(table_of(title_text("What the methods will take", note), rows, columns))
    console.print(Text(_NOT_COUNTED, "dim"))


def _passes(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == round(number) else f"{number:.1f}"


@dataclass(frozen=True)
class _Measure:
    """A measure of a comparison.

    Attributes:
        title: the heading.
        written: writes a value.
        meaning: the meaning in words.
        best: the end that is set in bold; None for costs, whose least says nothing by itself.
    """

    title: str
    written: Callable[[float], str]
    meaning: str = ""
    best: Literal["lowest", "highest"] | None = None


# By column of `Comparison.summary`.
_MEASURES = {
    "reciprocal_rank": _Measure("MRR", "{:.3f}".format, best="lowest"),
    "probability": _Measure("probability", percent, best="lowest"),
    "log_probability": _Measure("log p", signed, best="lowest"),
    "drop": _Measure("fall", signed, "how far {fallen} fell, in nats, more is better", "highest"),
    "log_odds": _Measure("log-odds", signed, "of the target against the tokens it is compared with, in nats"),
    "kl": _Measure("KL", divergence, "collateral on unrelated plain text, in nats per token"),
    "spearman": _Measure(
        "Spearman",
        lambda value: signed(value, 2),
        "rank correlation with the exact removal of single neurons",
        "highest",
    ),
    "recall": _Measure(
        "recall", "{:.2f}".format, "share found of the neurons that matter most alone", "highest"
    ),
    "passes": _Measure(
        "passes",
        lambda number: f"{number:,.0f}" if number >= 10 else plain_number(number, 2),
        "what the method took in forward passes",
    ),
    "seconds": _Measure("seconds", "{:.2f}".format),
}
_AFTER = ("reciprocal_rank", "probability", "log_probability")
# The order in which intervals and columns are given up where the width is too small. Costs have no intervals.
_INTERVALS_GO = ("recall", "spearman", "kl", "log_probability", "probability", "reciprocal_rank", "drop")
_COLUMNS_GO = ("seconds", "recall", "spearman", "log_probability", "passes", "probability", "log_odds", "kl")
_SHORTEST_NAME = 24  # cells below which names of methods would be mistaken for each other
_GAP = 2


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print a row for each control and method; columns without room are left out."""
    table = _Table(comparison, console.width)
    several = comparison.n_facts > 1
    question: list[RenderableType] = []
    if not several:
        first = comparison.outcomes.iloc[0]
        words = tuple(re.findall(r"\s*\S+|\s+", first["prompt"]))
        target = token_text(first["target"], "bold")
        if "against" in comparison.outcomes:
            target = Text.assemble(target, " over ", token_text(first["against"], "bold"))
        question.append(question_text(words, console.width, target))
    facts = f"means over {comparison.n_facts:,} facts, " if several else ""
    title = title_text("Methods compared", f"{facts}{zeroed_words(comparison, 'each')}")
    drawn = table_of(title, table.rows, table.columns())
    print_blocks(console, *question, drawn, Text(table.meaning(), "dim"))


class _Table:
    """The widest table of a comparison that fits: intervals go first, then ends of long names, then columns.

    Attributes:
        rows: rows of `comparison_rows`.
        several: whether the numbers are means over several facts.
        best: the value to set in bold, by measure.
        name_width: cells for the names of the methods.
        with_intervals: names of the measures that show an interval.
        shown: names of the measures that have a column.
    """

    def __init__(self, comparison: Comparison, width: int) -> None:
        self.rows, self.several = comparison_rows(comparison), comparison.n_facts > 1
        self.with_intervals: list[str] = list(_INTERVALS_GO) if self.several else []
        self.shown = [name for name in _MEASURES if name in comparison.measures]
        self.best: dict[str, float] = {}
        for name in self.shown:
            end = _MEASURES[name].best
            values = [row[name] for row in self.rows if not row["control"] and not math.isnan(row[name])]
            if end and len(set(values)) > 1:
                self.best[name] = min(values) if end == "lowest" else max(values)
        self.name_width = max(Text(row["name"]).cell_len for row in self.rows)
        intervals = [(self.with_intervals, name) for name in self.with_intervals]
        for names, name in (*intervals, *((self.shown, name) for name in _COLUMNS_GO if name in self.shown)):
            least = self.name_width if self.with_intervals else min(self.name_width, _SHORTEST_NAME)
            if self._room_for_names(width) >= least:
                break
            names.remove(name)
        self.name_width = min(self.name_width, max(1, self._room_for_names(width)))

    def _room_for_names(self, width: int) -> int:
        """Return the cells that the columns of numbers leave."""
        cells = [
            max(len(self._title(name)), *(self._cell(name, row).cell_len for row in self.rows))
            for name in self.shown
        ]
        return width - sum(cells) - _GAP * len(cells)

    def columns(self) -> list[Column]:
        """Return the columns, names first."""
        return [
            Column("", self._name),
            *(
                Column(self._title(name), lambda row, name=name: self._cell(name, row), right=True)
                for name in self.shown
            ),
        ]

    def meaning(self) -> str:
        """Return the meaning of the columns."""
        after = [self._title(name) for name in self.shown if name in _AFTER]
        words = [f"{enumerated(after)}: of the target once the neurons are zeroed, lower is better"]
        words += ["MRR: mean of 1 / rank"] if self.several else []
        fallen = "log-odds" if "log_odds" in self.rows[0] else "log p"
        words += [
            f"{measure.title}: {measure.meaning.format(fallen=fallen)}"
            for name, measure in _MEASURES.items()
            if name in self.shown and measure.meaning
        ]
        if self.with_intervals:
            words.append("[ ]: 95 % interval over facts")
        return f"{'. '.join(words)}. Bold: the best method."

    def _title(self, name: str) -> str:
        return "1 / rank" if name == "reciprocal_rank" and not self.several else _MEASURES[name].title

    def _name(self, row: Row) -> Text:
        text = Text(row["name"], "dim" if row["control"] else "")
        text.truncate(self.name_width, overflow="ellipsis")
        return text

    def _cell(self, name: str, row: Row) -> Text:
        value, written = row[name], _MEASURES[name].written
        if math.isnan(value):
            return Text()
        is_best = not row["control"] and self.best.get(name) == value
        text = Text(written(value), "dim" if row["control"] else "bold" if is_best else "")
        if name in self.with_intervals:
            low, high = (written(row[f"{name}_{end}"]).removesuffix(" %") for end in ("low", "high"))
            text.append(f" [{low}, {high}]", "dim not bold")
        return text
