"""What `mnemoscope methods` shows before anything is compared: which methods there are, what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from mnemoscope.attribution.methods.base import Estimate, Method
from mnemoscope.view.comparison import name_of
from mnemoscope.view.drawing import Column, Row, table_of, title_text
from mnemoscope.view.tokens import visible

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


def render_estimates(estimates: Sequence[tuple[Method, Estimate]], n_facts: int, console: Console) -> None:
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
