"""Text, bars and tables for a terminal.

Every text of a model or a caller passes through `visible` into a `Text`, never into markup, so no token can
restyle or steer the terminal.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mnemoscope.report.text import any_of, plain_number
from mnemoscope.report.theme import LOWERS, RAISES, largest
from mnemoscope.report.tokens import middle_left_out, visible
from mnemoscope.results.targets import Provenance, Targets

_BAR = 8
_PROMPT_LINES = 4
_LONGEST_TOKEN = 40
_MOST_TOKENS = 12
_GAP = 2  # cells between two columns
_LEAST_BAR = 4
_LEAST_TEXT = 8
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_TURN_LEFT_TO_RIGHT = "\u200e"  # keeps a terminal from reordering what stands beside the token
_MADE_UP = r"[␣⏎⇥∅]|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}"

Row = dict[str, Any]


def token_text(token: str, style: str = "", most: int | None = None) -> Text:
    """Return a token with its hidden characters visible, cut to `most` cells; signs for them are dim."""
    text = visible(token)
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in text):
        text = f"{_TURN_LEFT_TO_RIGHT}{text}{_TURN_LEFT_TO_RIGHT}"
    shown = Text(text, style)
    shown.highlight_regex(_MADE_UP, "dim")
    if most is not None:
        shown.truncate(most, overflow="ellipsis")
    return shown


def prompt_text(tokens: tuple[str, ...], width: int) -> Text:
    """Return the prompt's tokens; the middle of a long prompt is left out."""
    texts = [token_text(token, most=_LONGEST_TOKEN) for token in tokens]
    widths = [text.cell_len + 1 for text in texts]
    head, tail = middle_left_out(widths, _PROMPT_LINES * (width - _LONGEST_TOKEN // 4))
    left_out = len(texts) - head - tail
    gap = [Text(f"… {left_out} more …", "dim italic")] if left_out else []
    return Text(" ").join([*texts[:head], *gap, *texts[len(texts) - tail :]])


def tokens_text(tokens: Sequence[str]) -> Text:
    """Return the first tokens of a list, at most 12."""
    return Text(" ").join(map(token_text, tokens[:_MOST_TOKENS]))


def targets_text(targets: Targets) -> Text:
    """Return `targets_words` with the tokens in bold."""
    sides = [
        Text(any_of(side), "dim") + Text(", ").join(token_text(target.text, "bold") for target in side)
        for side in (targets.answers, targets.against)
        if side
    ]
    return Text(" over ", "dim").join(sides)


def origin_text(origin: Provenance) -> Text:
    """Return the model's name, revision, architecture and dtype."""
    words = [origin.model, origin.revision[:12], origin.architecture, origin.dtype]
    return Text(" · ".join(visible(word) for word in words if word), "dim")


def question_text(tokens: tuple[str, ...], width: int, target: Text | None = None) -> Text:
    """Return the prompt, an arrow, and the target unless it is None."""
    arrow = Text(" ▸", "dim")
    return prompt_text(tokens, width) + (arrow if target is None else arrow + Text(" ") + target)


def title_text(title: str, note: str = "", token: Text | None = None, end: str = "") -> Text:
    """Return a heading, then a dim note that may end in a token and further words."""
    return Text.assemble((title, "bold"), "  ", (note, "dim"), token or "", (end, "dim"))


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: the heading.
        cell: returns the text of a row's cell.
        right: whether the cells are flush right.
        stretches: whether the column takes the width that is left and is cut to it.
        whole: whether the cells are never cut, such as names of parts; those that are flush right never are.
        bar: for bars, returns that of a row with at most so many cells.
    """

    title: str | Text
    cell: Callable[[Row], str | Text]
    right: bool = False
    stretches: bool = False
    whole: bool = False
    bar: Callable[[Row, int], Text] | None = None


def table_of(title: Text, rows: list[Row], columns: list[Column]) -> RenderableType:
    """Return a titled table without lines; where it is too wide, bars and tokens give way to numbers."""
    return Group(title, _Fitted(rows, columns) if rows else Text("none", "dim"))


@dataclass(frozen=True)
class _Fitted:
    """Table that is fitted to the width it is drawn in."""

    rows: list[Row]
    columns: list[Column]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        cells = [[_as_text(column.cell(row)) for row in self.rows] for column in self.columns]
        widths = self._widths([max(text.cell_len for text in texts) for texts in cells], options.max_width)
        stretches = any(column.stretches for column in self.columns)
        table = Table(box=None, pad_edge=False, expand=stretches, header_style="dim")
        shown = []
        for column, texts, width in zip(self.columns, cells, widths, strict=True):
            if column.bar and not width:
                continue
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                width=None if column.stretches else width or None,
                ratio=1 if column.stretches else None,
                no_wrap=True,
                overflow="ellipsis",
            )
            shown.append([column.bar(row, width) for row in self.rows] if column.bar else texts)
        for row in zip(*shown, strict=True):
            table.add_row(*row)
        yield table

    def _widths(self, contents: list[int], room: int) -> list[int]:
        """Return the columns' widths, 0 for bars without room, given those of their cells."""
        widths = [
            min(_LEAST_TEXT, content) if column.stretches else max(content, _as_text(column.title).cell_len)
            for column, content in zip(self.columns, contents, strict=True)
        ]
        bars = [index for index, column in enumerate(self.columns) if column.bar]
        rest = [index for index, column in enumerate(self.columns) if column.right or column.whole]
        texts = [index for index in range(len(widths)) if index not in (*bars, *rest)]

        def excess() -> int:
            n_shown = len(widths) - sum(not widths[index] for index in bars)
            return sum(widths) + _GAP * (n_shown - 1) - room

        def shrink(indices: list[int], least: list[int]) -> None:
            for index in sorted(indices, key=lambda index: -widths[index]):
                if excess() > 0:
                    widths[index] = max(widths[index] - excess(), min(least[index], widths[index]))

        n = len(widths)
        shrink(texts, [_LONGEST_TOKEN] * n)
        shrink(bars, [_LEAST_BAR] * n)
        if excess() > 0:
            for index in bars:
                widths[index] = 0
        shrink(texts, [_LEAST_TEXT] * n)
        shrink(rest, contents)  # cuts headings
        shrink(texts, [1] * n)
        return widths


def _as_text(cell: str | Text) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def abreast(tables: list[RenderableType], width: int, from_width: int) -> RenderableType:
    """Return tables side by side from a width on, else one below the other."""
    grid = Table.grid(expand=True, padding=(0, 3, 0, 0) if width >= from_width else 0)
    if width >= from_width:
        for _ in tables:
            grid.add_column(ratio=1)
        grid.add_row(*tables)
        return grid
    for index, table in enumerate(tables):
        grid.add_row(Padding(table, (1 if index else 0, 0, 0, 0)))
    return grid


def print_blocks(console: Console, *blocks: RenderableType) -> None:
    """Print blocks with an empty line between neighbours."""
    for index, block in enumerate(blocks):
        if index:
            console.print()
        console.print(block)


def facts_text(facts: dict[str, str]) -> Text:
    """Return numbers with their names on one line."""
    return Text("   ").join(Text.assemble((f"{name} ", "dim"), value) for name, value in facts.items())


def expert_column(table: pd.DataFrame) -> list[Column]:
    """Return the column of the experts of a mixture of experts; blank for shared experts and dense layers."""
    if "expert" not in table:
        return []
    return [Column("expert", lambda row: "" if row["expert"] < 0 else str(row["expert"]), right=True)]


def bar_column(name: str, rows: list[Row], cells: int = _BAR) -> Column:
    """Return a column of bars of one of the numbers: unbroken for raising, broken for lowering parts."""
    most = largest(np.array([row[name] for row in rows], float))

    def bar(row: Row, room: int = cells) -> Text:
        length = abs(row[name]) / most * min(room, cells) if most else 0.0
        if not math.isfinite(length):
            return Text()
        halves = round(2 * length)
        if row[name] < 0:
            return Text("╍" * max(1, halves // 2), LOWERS)
        return Text("━" * (halves // 2) + "╸" * (halves % 2), RAISES)

    return Column("", bar, bar=bar)


def number_column(title: str | Text, name: str, written: Callable[[Any], str | Text] = str) -> Column:
    """Return a column of one of the numbers, flush right."""
    return Column(title, lambda row: written(row[name]), right=True)


def tokens_column(title: str) -> Column:
    """Return the column of a list of tokens by its name."""
    return Column(title, lambda row: tokens_text(row[title]), stretches=True)


def activation_column() -> Column:
    """Return the column of the neurons' activations, their coefficients."""
    return number_column("activation", "coefficient", plain_number)


def position_column() -> Column:
    """Return the column of the token at which a part reads, with its position."""
    return Column(
        "at token", lambda row: Text.assemble((f"{row['position']} ", "dim"), token_text(row["token"]))
    )
