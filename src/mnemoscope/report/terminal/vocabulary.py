"""What `mnemoscope neuron` and `mnemoscope head` show in a terminal: parts read in vocabulary space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console, RenderableType
from rich.text import Text

from mnemoscope.report.terminal import (
    Column,
    Row,
    abreast,
    prompt_text,
    score_bar,
    table_of,
    title_text,
    token_text,
)
from mnemoscope.report.text import percent, plain_number, signed
from mnemoscope.results.columns import records

if TYPE_CHECKING:
    from mnemoscope.results.prediction import HeadTokens, NeuronTokens


_IN_ONE_TABLE = 130  # cells from which what a head meets and what it brings stand in one table
_WITH_BARS = 60
_LONGEST_TOKEN = 16
_BRINGS = ("brings (value)", "value")
_MEETS = (("meets (input)", "input"), ("looks for (key)", "key"))
_WORDS = (
    "tokens: the top ones of vectors read through the frozen final norm and the unembedding; no effects",
    "brings: what it adds to the stream at the last position from there; norm: the length of that",
    "meets: the stream before its layer",
    "looks for: what would raise its attention score of the position the fastest",
)


def render_neuron(reading: NeuronTokens, console: Console) -> None:
    """Show what an FFN neuron writes, or what a head makes of it: the tokens at both ends."""
    if reading.through is not None:
        name = f"Through head {reading.through.layer}.{reading.through.head}"
        console.print(title_text(name, "what its value-output map makes of the column of"))
    name = f"FFN neuron {reading.layer}.{reading.neuron}"
    console.print(title_text(name, f"norm {plain_number(reading.norm)}"))
    console.print(Text("A negative coefficient swaps the two lists.", "dim"))
    console.print()
    tables = [_ends("promotes", reading.promotes), _ends("demotes", reading.demotes)]
    console.print(abreast(tables, console.width, 60))


def render_head(reading: HeadTokens, console: Console, rows: int = 20) -> None:
    """Show a head at the positions that it pays most attention to, in the order of the prompt."""
    shown = reading.table.nlargest(rows, "attention").sort_index()
    console.print(prompt_text(reading.tokens, console.width))
    console.print()
    for table in _tables(reading, shown, console.width):
        console.print(table)
        console.print()
    left_out = reading.table.drop(shown.index)
    if not left_out.empty:
        console.print(Text(_left_out(left_out), "dim"))
    console.print(Text("\n".join(_WORDS), "dim"))


def _ends(title: str, tokens: tuple[tuple[str, float], ...]) -> RenderableType:
    rows: list[Row] = [{"token": token, "value": value} for token, value in tokens]
    largest = max((abs(value) for _, value in tokens), default=0.0)
    columns = [
        Column("token", lambda row: token_text(row["token"], "bold")),
        Column("value", lambda row: signed(row["value"], 2), right=True),
        Column("", lambda row: score_bar(row["value"], largest)),
    ]
    return table_of(title_text(title), rows, columns)


def _tables(reading: HeadTokens, shown: pd.DataFrame, width: int) -> list[RenderableType]:
    rows = records(shown, tuple(shown.columns))
    title = title_text(f"Head {reading.layer}.{reading.head}", "seen from the last position")
    brings = [_words(*_BRINGS), Column("norm", lambda row: plain_number(row["value_norm"]), right=True)]
    meets = [_words(*column) for column in _MEETS]
    if width >= _IN_ONE_TABLE:
        return [table_of(title, rows, [*_position(), *_attention(rows, width), *meets, *brings])]
    return [
        table_of(title, rows, [*_position(), *_attention(rows, width), *brings]),
        table_of(title_text("What it meets and looks for", "there"), rows, [*_position(), *meets]),
    ]


def _position() -> list[Column]:
    return [
        Column("", lambda row: Text(str(row["position"]), "dim"), right=True),
        Column("token", lambda row: _cut(row["token"], "bold")),
    ]


def _attention(rows: list[Row], width: int) -> list[Column]:
    largest = max((row["attention"] for row in rows), default=0.0)
    numbers = Column("attention", lambda row: percent(row["attention"]), right=True)
    bars = Column("", lambda row: score_bar(row["attention"], largest))
    return [numbers, bars] if width >= _WITH_BARS else [numbers]


def _words(title: str, name: str) -> Column:
    return Column(title, lambda row: _tokens(row[name]), stretches=True)


def _tokens(tokens: Iterable[str]) -> Text:
    return Text(" ").join(_cut(token) for token in tokens)


def _cut(token: str, style: str = "") -> Text:
    text = token_text(token, style)
    text.truncate(_LONGEST_TOKEN, overflow="ellipsis")
    return text


def _left_out(table: pd.DataFrame) -> str:
    positions = "position" if len(table) == 1 else "positions"
    return f"{len(table):,} more {positions} with {percent(table['attention'].sum())} of the attention"
