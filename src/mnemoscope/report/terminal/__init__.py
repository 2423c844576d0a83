"""Drawing in a terminal: tokens, bars, titles and tables.

Every text that comes from a model or a caller goes through `visible` and into a `Text`, never into
markup, so no token can restyle or steer the terminal.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mnemoscope.report.terminal.depth import LOWERS, RAISES
from mnemoscope.report.tokens import middle_left_out, visible

_BAR = 8
_PROMPT_LINES = 4
_LONGEST_TOKEN = 40
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


def prompt_text(tokens: tuple[str, ...], width: int) -> Text:
    """The prompt's tokens, a long prompt with its middle left out."""
    texts = [token_text(token) for token in tokens]
    for text in texts:
        text.truncate(_LONGEST_TOKEN, overflow="ellipsis")
    widths = [text.cell_len + 1 for text in texts]
    head, tail = middle_left_out(widths, _PROMPT_LINES * (width - _LONGEST_TOKEN // 4))
    left_out = len(texts) - head - tail
    gap = [Text(f"… {left_out} more …", "dim italic")] if left_out else []
    return Text(" ").join([*texts[:head], *gap, *texts[len(texts) - tail :]])


def title_text(title: str, note: str = "", token: Text | None = None, end: str = "") -> Text:
    """A heading, then words about it, which may have a token among them."""
    return Text.assemble((title, "bold"), "  ", (note, "dim"), token or "", (end, "dim"))


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

    title: str | Text
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


def abreast(tables: list[RenderableType], width: int, from_width: int) -> RenderableType:
    """Tables side by side where the width allows, else one below the other."""
    grid = Table.grid(expand=True, padding=(0, 3, 0, 0) if width >= from_width else 0)
    if width >= from_width:
        for _ in tables:
            grid.add_column(ratio=1)
        grid.add_row(*tables)
        return grid
    for index, table in enumerate(tables):
        grid.add_row(Padding(table, (1 if index else 0, 0, 0, 0)))
    return grid
