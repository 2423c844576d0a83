"""Tables of neurons, heads and query neurons, best first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from mnemoscope.report.terminal import Column, Row, abreast, score_bar, table_of, title_text, token_text
from mnemoscope.report.terminal.depth import KINDS
from mnemoscope.report.text import (
    NAMES,
    QUERY_SCORE,
    Effects,
    effect_text,
    percent,
    places,
    plain_number,
    signed,
    value_neurons_asked,
    value_neurons_skipped,
)
from mnemoscope.results.columns import records
from mnemoscope.results.query import QueryNeurons, QueryTables

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


_ABREAST = 150  # cells from which both kinds stand side by side
_GAP = 3  # that `abreast` leaves beside each of them
_WITH_COEFFICIENT = 68  # cells from which a table has room for it
_MOST_ROWS = 8
_LAYER_LINES = 2


def query_section(queries: QueryNeurons, width: int, rows: int) -> RenderableType:
    """What activates the attention value neurons and the FFN value neurons."""
    room = width // 2 - _GAP if width >= _ABREAST else width
    n_rows = min(rows, _MOST_ROWS)
    sides = [
        _side("Attention value neurons", queries.of_attention, room, n_rows),
        _side("FFN value neurons", queries.of_ffn, room, n_rows),
    ]
    title = title_text("What activates the value neurons", QUERY_SCORE)
    return Group(title, Text(), abreast(sides, width, _ABREAST))


def _side(title: str, tables: QueryTables, room: int, n_rows: int) -> RenderableType:
    """What activates value neurons of one kind."""
    parts: list[RenderableType] = [title_text(title, value_neurons_asked(tables))]
    skipped = value_neurons_skipped(tables)
    if skipped:
        parts.append(Text(skipped, "dim"))
    note = title_text("FFN neurons", "that activate them most")
    parts += [
        _strongest("layers", tables.layers, room, _LAYER_LINES),
        _strongest("heads", tables.heads, room, 1),
        query_ffn(note, tables.ffn_neurons, n_rows, room >= _WITH_COEFFICIENT),
    ]
    return Group(*parts)


def _strongest(what: str, table: pd.DataFrame, room: int, n_lines: int) -> Text:
    """The strongest by name, whatever their sign: as many as the lines hold, at least one."""
    decimals = places(table["score"])
    indent = len("layers")
    lines = [Text.assemble((what.ljust(indent), "dim"))]
    for row in _by_magnitude(table):
        item = Text.assemble("  ", _name(row), " ", (signed(row["score"], decimals), "dim"))
        if lines[-1].cell_len + item.cell_len > room and len(lines[-1]) > indent:
            if len(lines) == n_lines:
                break
            lines.append(Text(" " * indent))
        lines[-1] += item
    return Text("\n").join(lines)


def _by_magnitude(table: pd.DataFrame) -> list[Row]:
    order = table["score"].abs().sort_values(ascending=False, kind="stable").index
    return records(table.loc[order], tuple(table.columns))


def _name(row: Row) -> str:
    if "head" in row:
        return f"{row['layer']}.{row['head']}"
    return "embeddings" if row["kind"] == "embeddings" else f"{KINDS[row['kind']]} {row['layer']}"
