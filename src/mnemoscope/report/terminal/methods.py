"""Methods: the list, their costs, and their comparison."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.text import Text

from mnemoscope.attribution.methods.base import Method, MethodCost
from mnemoscope.report.terminal import Column, Row, prompt_text, table_of, title_text, token_text
from mnemoscope.report.text import divergence, percent, plain_number, signed
from mnemoscope.report.tokens import visible
from mnemoscope.results.columns import records

if TYPE_CHECKING:
    from mnemoscope.study.comparison import Comparison


_WITH_TITLES = 112  # cells from which the table of methods has room for the names in tables
_SYMBOLS = (
    "w: the target. m: a neuron's coefficient, a: with its sign, fc2: its column, v = m fc2, x: the state "
    "that v is added to, bs: read out, g: the gradient by m."
)
_NOT_COUNTED = (
    "Then comes what is not counted: the neurons are zeroed, one by one, together and on plain text."
)


def described(method: Method) -> dict[str, str]:
    """A method in words."""
    return {"name": method.name, "title": method.title, "formula": method.formula}


def render_methods(methods: Iterable[Method], console: Console) -> None:
    """Show the methods and what each computes."""
    rows: list[Row] = [{key: visible(text) for key, text in described(method).items()} for method in methods]
    columns = [
        Column("name", lambda row: Text(row["name"], "bold")),
        Column("what it computes", lambda row: row["formula"], stretches=True),
    ]
    if console.width >= _WITH_TITLES:
        columns.insert(1, Column("title", lambda row: row["title"]))
    console.print(table_of(title_text("Methods", "that score neurons"), rows, columns))
    console.print()
    console.print(Text(_SYMBOLS, "dim"))


def render_estimates(estimates: Sequence[tuple[Method, MethodCost]], n_facts: int, console: Console) -> None:
    """Show what each method is going to take."""
    rows: list[Row] = [{"method": method, "cost": estimate} for method, estimate in estimates]
    columns = [
        Column("", lambda row: visible(name_of(row["method"].label, row["method"].title))),
        Column("forward passes", lambda row: _passes(row["cost"].passes), right=True),
        Column("memory", lambda row: f"{row['cost'].memory / 1e6:,.0f} MB", right=True),
        Column("", lambda row: Text(" ".join(row["cost"].note.split()), "dim"), stretches=True),
    ]
    note = f"each on the first of {n_facts:,} facts" if n_facts > 1 else "beyond the first pass"
    console.print(table_of(title_text("What the methods will take", note), rows, columns))
    console.print(Text(_NOT_COUNTED, "dim"))


def _passes(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == round(number) else f"{number:.1f}"


KINDS = {"ffn": "FFN neurons", "attention": "attention neurons"}
_SHORTEST_NAME = 24  # cells below which names of methods would be taken for each other
_GAP = 2


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else plain_number(number, 2)


@dataclass(frozen=True)
class _Measure:
    """A column of numbers.

    Attributes:
        name: its column in `Comparison.summary`.
        title: its heading.
        written: a number of it as text.
        meaning: what it is, in words.
        best: which end is set in bold; None for costs, of which the least says nothing by itself.
    """

    name: str
    title: str
    written: Callable[[float], str]
    meaning: str
    best: Literal["lowest", "highest"] | None = None


_MEASURES = {
    measure.name: measure
    for measure in (
        _Measure("reciprocal_rank", "MRR", "{:.3f}".format, "", "lowest"),
        _Measure("probability", "probability", percent, "", "lowest"),
        _Measure("log_probability", "log p", signed, "", "lowest"),
        _Measure("drop", "fall", signed, "how far log p fell, in nats, more is better", "highest"),
        _Measure("kl", "KL", divergence, "collateral on unrelated plain text, in nats per token"),
        _Measure(
            "spearman",
            "Spearman",
            lambda value: signed(value, 2),
            "rank correlation with the exact removal of single neurons",
            "highest",
        ),
        _Measure(
            "recall",
            "recall",
            "{:.2f}".format,
            "share found of the neurons that matter most alone",
            "highest",
        ),
        _Measure("passes", "passes", _amount, "what the method took in forward passes"),
        _Measure("seconds", "seconds", "{:.2f}".format, ""),
    )
}
_AFTER = ("reciprocal_rank", "probability", "log_probability")
# What is given up first where the width does not allow everything. Costs have no intervals.
_INTERVALS_GO = ("recall", "spearman", "kl", "log_probability", "probability", "reciprocal_rank", "drop")
_COLUMNS_GO = ("seconds", "recall", "spearman", "log_probability", "passes", "probability", "kl")


def name_of(method: str, title: str) -> str:
    """What a method is called in tables and charts: its title, and the options that are not as usual."""
    return f"{title}{re.sub('^[^(]*', '', method)}"


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Show a row for each control and method; what does not fit the width is left out."""
    table = _Table.of(comparison).fitted(console.width)
    several = comparison.n_facts > 1
    if not several:
        first = comparison.outcomes.iloc[0]
        words = tuple(re.findall(r"\s*\S+|\s+", first["prompt"]))
        console.print(
            prompt_text(words, console.width) + Text(" ▸ ", "dim") + token_text(first["target"], "bold")
        )
        console.print()
    facts = f"means over {comparison.n_facts:,} facts, " if several else ""
    terms = comparison.terms
    note = f"{facts}the first {terms.top:,} {KINDS[terms.kind]} of each zeroed together"
    console.print(table_of(title_text("Methods compared", note), table.rows, table.columns()))
    console.print()
    console.print(Text(table.meaning(), "dim"))


@dataclass(frozen=True)
class _Table:
    """The rows, and what is shown of them.

    Attributes:
        rows: of `Comparison.summary`, `name` and `control` added.
        several: whether the numbers are means over several facts.
        shown: names of the measures that have a column.
        with_intervals: names of those that show an interval as well.
        name_width: cells for the names of the methods.
        best: the value to set in bold, by measure.
    """

    rows: list[Row]
    several: bool
    shown: tuple[str, ...] = tuple(_MEASURES)
    with_intervals: tuple[str, ...] = ()
    name_width: int = 0
    best: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, comparison: Comparison) -> _Table:
        from mnemoscope.study.comparison import CONTROLS

        summary = comparison.summary()
        rows = records(summary, tuple(summary.columns))
        for row in rows:
            row["name"] = visible(name_of(row["method"], row["title"]))
            row["control"] = row["method"] in CONTROLS
        several = comparison.n_facts > 1
        return cls(
            rows,
            several,
            with_intervals=_INTERVALS_GO if several else (),
            name_width=max(Text(row["name"]).cell_len for row in rows),
            best=dict(_best([row for row in rows if not row["control"]])),
        )

    def fitted(self, width: int) -> _Table:
        """The widest that fits: intervals go first, then the ends of long names, then columns."""
        table = self
        for table in self._ever_narrower():
            least = table.name_width if table.with_intervals else min(table.name_width, _SHORTEST_NAME)
            if table._room_for_names(width) >= least:
                break
        room = max(1, table._room_for_names(width))
        return replace(table, name_width=min(table.name_width, room))

    def _ever_narrower(self) -> Iterator[_Table]:
        table = self
        yield table
        for name in _INTERVALS_GO if self.several else ():
            table = replace(table, with_intervals=tuple(n for n in table.with_intervals if n != name))
            yield table
        for name in _COLUMNS_GO:
            table = replace(table, shown=tuple(n for n in table.shown if n != name))
            yield table

    def _room_for_names(self, width: int) -> int:
        """Cells that the other columns leave."""
        cells = [
            max(len(self._title(name)), *(self._cell(name, row).cell_len for row in self.rows))
            for name in self.shown
        ]
        return width - sum(cells) - _GAP * len(cells)

    def columns(self) -> list[Column]:
        """The columns, names first."""
        return [
            Column("", self._name),
            *(Column(self._title(name), self._cell_of(name), right=True) for name in self.shown),
        ]

    def meaning(self) -> str:
        """What the columns that are shown say."""
        after = [self._title(name) for name in self.shown if name in _AFTER]
        words = [f"{_listed(after)}: of the target once the neurons are zeroed, lower is better"]
        words += ["MRR: mean of 1 / rank"] if self.several else []
        words += [
            f"{measure.title}: {measure.meaning}"
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

    def _cell_of(self, name: str) -> Callable[[Row], Text]:
        return lambda row: self._cell(name, row)

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


def _best(methods: list[Row]) -> Iterator[tuple[str, float]]:
    """The best value of each measure that has one, unless all methods have it."""
    for name, measure in _MEASURES.items():
        values = [row[name] for row in methods if not math.isnan(row[name])]
        if measure.best and len(set(values)) > 1:
            yield name, min(values) if measure.best == "lowest" else max(values)


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
