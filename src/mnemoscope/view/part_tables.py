"""Tables of single parts in a terminal: neurons and heads at positions, best first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from mnemoscope.attribution.result import records
from mnemoscope.view.drawing import Column, Row, score_bar, table_of, token_text
from mnemoscope.view.effects import NAMES, Effects, effect_text
from mnemoscope.view.numbers import percent, places, plain_number, signed

_MOST_TOKENS = 12
_WITH_DEMOTES = 80  # cells from which a table has both lists of tokens


@dataclass(frozen=True)
class PartTables:
    """Draws the first rows of tables of parts.

    Attributes:
        effects: which there are, and which the tables are ordered by.
        both: whether there is room for both effects side by side.
    """

    effects: Effects
    both: bool

    def ffn(self, title: Text, table: pd.DataFrame, n_rows: int, width: int) -> RenderableType:
        """FFN neurons with the tokens they promote and, where there is room, demote."""
        rows = _rows(table, n_rows)
        words = [
            Column(word, lambda row, word=word: tokens_text(row[word]), stretches=True)
            for word in (("promotes", "demotes") if width >= _WITH_DEMOTES else ("promotes",))
        ]
        columns = [
            name_column("layer", "neuron"),
            *expert_column(table),
            *self._effects(rows),
            _coefficient(),
            *words,
        ]
        return table_of(title, rows, columns)

    def attention(self, title: Text, table: pd.DataFrame, n_rows: int) -> RenderableType:
        """Attention neurons with the token whose value they carry."""
        rows = _rows(table, n_rows)
        columns = [name_column("layer", "head", "dim"), *self._effects(rows), _coefficient(), _position()]
        return table_of(title, rows, columns)

    def positions(self, title: Text, table: pd.DataFrame, n_rows: int) -> RenderableType:
        """Heads with the token they look at and how much of their attention it gets."""
        rows = _rows(table, n_rows)
        attention = Column("attention", lambda row: percent(row["attention"]), right=True)
        columns = [name_column("layer", "head"), *self._effects(rows), attention, _position()]
        return table_of(title, rows, columns)

    def _effects(self, rows: list[Row]) -> list[Column]:
        """A column for each effect, with bars of the one that the rows are ordered by."""
        columns = []
        for name in self.effects.columns(self.both):
            columns.append(_effect(name, rows))
            if name == self.effects.order:
                columns.append(bar_column(name, rows))
        return columns


def query_ffn(title: Text, table: pd.DataFrame, n_rows: int, with_coefficient: bool) -> RenderableType:
    """Query FFN neurons with the token at which most is read; those that are value neurons too are marked."""
    rows = _rows(table, n_rows)
    decimals = places(row["score"] for row in rows)
    columns = [
        name_column("layer", "neuron"),
        *expert_column(table),
        Column("query", lambda row: signed(row["score"], decimals), right=True),
        bar_column("score", rows),
        *([_coefficient()] if with_coefficient else []),
        _position(),
        Column("", lambda row: "query-value" if row["value_neuron"] else ""),
    ]
    return table_of(title, rows, columns)


def _rows(table: pd.DataFrame, n_rows: int) -> list[Row]:
    return records(table.head(n_rows), tuple(table.columns))


def name_column(*parts: str) -> Column:
    """What a part is called, such as `24.1005`."""
    return Column(".".join(parts), lambda row: ".".join(str(row[part]) for part in parts))


def expert_column(table: pd.DataFrame) -> list[Column]:
    """Which expert neurons belong to, in a mixture of experts; empty for shared experts and dense layers."""
    if "expert" not in table:
        return []
    return [Column("expert", lambda row: "" if row["expert"] < 0 else str(row["expert"]), right=True)]


def _effect(name: str, rows: list[Row]) -> Column:
    decimals = places(row[name] for row in rows)
    return Column(NAMES[name], lambda row: effect_text(name, row[name], decimals), right=True)


def bar_column(name: str, rows: list[Row]) -> Column:
    """Bars of one of the numbers."""
    largest = max((abs(row[name]) for row in rows if math.isfinite(row[name])), default=0.0)
    return Column("", lambda row: score_bar(row[name], largest))


def _coefficient() -> Column:
    return Column("coefficient", lambda row: plain_number(row["coefficient"]), right=True)


def _position() -> Column:
    def cell(row: Row) -> Text:
        return Text.assemble((f"{row['position']} ", "dim"), token_text(row["token"]))

    return Column("at token", cell)


def tokens_text(tokens: Iterable[str]) -> Text:
    """The first of several tokens, as many as can be shown."""
    return Text(" ").join(token_text(token) for token in list(tokens)[:_MOST_TOKENS])
