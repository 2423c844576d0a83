"""Tables of single parts in a terminal: neurons and heads at positions, best first."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mnemoscope.attribution.result import records
from mnemoscope.view.depth_chart import LOWERS, RAISES
from mnemoscope.view.numbers import percent, places, plain_number, signed
from mnemoscope.view.tokens import visible

_BAR = 8
_MOST_TOKENS = 12
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_TURN_LEFT_TO_RIGHT = "\u200e"  # keeps a terminal from reordering what stands beside the token
_MADE_UP = r"[␣⏎⇥∅]|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}"

Row = dict[str, Any]


def token_text(token: str, style: str = "") -> Text:
    """A token with its hidden characters made visible; the signs that stand for them are dim."""
    text = visible(token)
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in text):
        text = f"{_TURN_LEFT_TO_RIGHT}{text}{_TURN_LEFT_TO_RIGHT}"
    shown = Text(text, style)
    shown.highlight_regex(_MADE_UP, "dim")
    return shown


def score_bar(score: float, largest: float, cells: int = _BAR) -> Text:
    """A line beside a number: unbroken for a raising score, broken for a lowering one."""
    length = abs(score) / largest * cells if largest else 0.0
    if not math.isfinite(length):
        return Text()
    halves = round(2 * length)
    if score < 0:
        return Text("╍" * max(1, halves // 2), LOWERS)
    return Text("━" * (halves // 2) + "╸" * (halves % 2), RAISES)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        cell: what it shows of a row.
        right: whether it is flush right.
        stretches: whether it takes the width that is left, and is cut to it.
    """

    title: str
    cell: Callable[[Row], str | Text]
    right: bool = False
    stretches: bool = False


def table_of(title: Text, rows: list[Row], columns: list[Column]) -> RenderableType:
    """A titled table without lines."""
    if not rows:
        return Group(title, Text("none", "dim"))
    stretches = any(column.stretches for column in columns)
    table = Table(box=None, pad_edge=False, expand=stretches, header_style="dim")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            ratio=1 if column.stretches else None,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    return Group(title, table)


def ffn_table(title: Text, table: pd.DataFrame, n_rows: int, width: int) -> RenderableType:
    """FFN neurons with the tokens they promote and, where there is room, demote."""
    rows = records(table.head(n_rows), tuple(table.columns))
    words = [
        Column(word, lambda row, word=word: _tokens(row[word]), stretches=True)
        for word in (("promotes", "demotes") if width >= 80 else ("promotes",))
    ]
    return table_of(title, rows, [_name("layer", "neuron"), *_scores(rows), _coefficient(), *words])


def attention_table(title: Text, table: pd.DataFrame, n_rows: int) -> RenderableType:
    """Attention neurons with the token whose value they carry."""
    rows = records(table.head(n_rows), tuple(table.columns))
    columns = [_name("layer", "head", "dim"), *_scores(rows), _coefficient(), _position()]
    return table_of(title, rows, columns)


def position_table(title: Text, table: pd.DataFrame, n_rows: int) -> RenderableType:
    """Heads with the token they look at and how much of their attention it gets."""
    rows = records(table.head(n_rows), tuple(table.columns))
    attention = Column("attention", lambda row: percent(row["attention"]), right=True)
    return table_of(title, rows, [_name("layer", "head"), *_scores(rows), attention, _position()])


def _name(*parts: str) -> Column:
    return Column(".".join(parts), lambda row: ".".join(str(row[part]) for part in parts))


def _scores(rows: list[Row]) -> list[Column]:
    scores = [row["score"] for row in rows]
    decimals = places(scores)
    largest = max((abs(score) for score in scores if math.isfinite(score)), default=0.0)
    return [
        Column("score", lambda row: signed(row["score"], decimals), right=True),
        Column("", lambda row: score_bar(row["score"], largest)),
    ]


def _coefficient() -> Column:
    return Column("coefficient", lambda row: plain_number(row["coefficient"]), right=True)


def _position() -> Column:
    def cell(row: Row) -> Text:
        return Text.assemble((f"{row['position']} ", "dim"), token_text(row["token"]))

    return Column("at token", cell)


def _tokens(tokens: Iterable[str]) -> Text:
    return Text(" ").join(token_text(token) for token in list(tokens)[:_MOST_TOKENS])
