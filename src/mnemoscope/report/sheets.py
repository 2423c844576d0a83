"""The tables of a report on an attribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mnemoscope.report.figures import level
from mnemoscope.report.findings import ablation_finding
from mnemoscope.report.text import (
    QUERY_SCORE,
    Effects,
    ablation_rows,
    divergence,
    effect_text,
    part_in_mixture,
    percent,
    prediction_names,
    signed,
    value_neurons_words,
)
from mnemoscope.report.theme import largest, strongest_groups
from mnemoscope.report.tokens import visible
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import records
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.parts import row_name

_SHOWN = 20  # rows of a table; more appear on demand
_MOST_ROWS = 100  # of a direction
_MOST_HEADS, _MOST_POSITIONS = 12, 24  # of the table of heads by position
_MOST_TOKENS = 8  # of a target, with a column each in the table of sums


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: as shown.
        value: number or text that sorts the cell; empty for the text itself.
        share: length of a bar, -1 to 1; step of a heat cell, `-LEVELS` to `LEVELS`.
    """

    text: str
    value: str = ""
    share: float = 0.0


class Sheet(NamedTuple):
    """A table.

    Attributes:
        headings: each with the kind of its cells: `number`, `token`, `tokens`, `words`, `bar`, or empty.
        rows: the cells of each row.
    """

    headings: tuple[tuple[str, str], ...]
    rows: list[list[Cell]]


Row = dict[str, Any]
# Heading, kind, and the cell of a row.
Column = tuple[str, str, Callable[[Row], Cell | str]]


def sheet_of(rows: Iterable[Row], *columns: Column) -> Sheet:
    """Return a table of rows."""
    cells = [[cell(row) for _, _, cell in columns] for row in rows]
    return Sheet(
        tuple((heading, kind) for heading, kind, _ in columns),
        [[Cell(cell) if isinstance(cell, str) else cell for cell in row] for row in cells],
    )


def number_cell(value: float, text: str, share: float = 0.0) -> Cell:
    """Return the cell of a number that sorts by its value."""
    return Cell(text, f"{value:.6g}" if math.isfinite(value) else "", share)


def number_column(heading: str, name: str, written: Callable[[float], str] = signed) -> Column:
    """Return the column of one of the numbers."""
    return heading, "number", lambda row: number_cell(row[name], written(row[name]))


def largest_of(rows: list[Row], name: str) -> float:
    """Return the largest magnitude of one of the numbers, 0 if there is none."""
    return largest(np.array([row[name] for row in rows], float))


def _effect(name: str) -> Column:
    return number_column(name, name, lambda value: effect_text(name, value, 3))


def _effect_bar(heading: str, name: str, rows: list[Row]) -> Column:
    """Return the column of an effect with bars."""
    most = largest_of(rows, name)

    def cell(row: Row) -> Cell:
        value = row[name]
        share = abs(value) / most if most and math.isfinite(value) else 0.0
        return number_cell(value, effect_text(name, value, 3), math.copysign(round(share, 4), value))

    return heading, "bar" if most else "number", cell


def layers_sheet(result: Attribution, effects: Effects) -> Sheet:
    """Return attention and FFN of each layer, the last layer first."""
    return sheet_of(
        records(result.layers.sort_values(["layer", "kind"], ascending=[False, True])),
        ("layer", "number", lambda row: str(row["layer"])),
        ("part", "", itemgetter("kind")),
        *map(_effect, effects.with_mediated()),
    )


def neurons_sheet(result: Attribution, effects: Effects, side: str) -> Sheet:
    """Return the neurons of both kinds of one direction, the strongest first."""
    order = effects.order
    tables = {
        "FFN": getattr(result, f"{side}ffn_neurons"),
        "attention": getattr(result, f"{side}attention_neurons"),
    }
    rows: list[Row] = [
        {"token": result.tokens[-1], "promotes": None, **row, "kind": kind}
        for kind, table in tables.items()
        for row in records(table.head(_MOST_ROWS))
    ]
    rows.sort(key=lambda row: -abs(row[order]) if math.isfinite(row[order]) else math.inf)
    return sheet_of(
        rows[:_MOST_ROWS],
        ("neuron", "", part_in_mixture),
        ("kind", "", itemgetter("kind")),
        ("reads", "token", lambda row: visible(row["token"])),
        *(_effect_bar(name, name, rows) if name == order else _effect(name) for name in effects.columns()),
        number_column("activation", "coefficient", lambda value: signed(value).removeprefix("+")),
        (
            "promotes",
            "tokens",
            lambda row: "–" if row["promotes"] is None else " ".join(map(visible, row["promotes"][:8])),
        ),
    )


def sums_sheet(result: ContinuationAttribution) -> Sheet:
    """Return the neurons with the largest sums over the target's tokens, of both signs and kinds."""
    rows: list[Row] = []
    for name, kind in (("ffn_neurons", "FFN"), ("attention_neurons_summed", "attention")):
        for side in ("", "suppressing_"):
            table: pd.DataFrame = getattr(result, f"{side}{name}")
            rows += [{"promotes": (), **row, "kind": kind} for row in records(table.head(_SHOWN))]
    rows = sorted(rows, key=lambda row: -abs(row["direct"]))[:_SHOWN]
    return sheet_of(
        rows,
        ("neuron", "", row_name),
        ("kind", "", itemgetter("kind")),
        _effect_bar("sum", "direct", rows),
        *(
            number_column(token, f"direct_{number}")
            for number, token in enumerate(prediction_names(result)[:_MOST_TOKENS])
        ),
        ("promotes", "tokens", lambda row: " ".join(map(visible, row["promotes"][:5])) or "–"),
    )


def reads_table(result: Attribution, effects: Effects) -> dict[str, Any] | None:
    """Return the strongest heads over the tokens they read: effects in nats, None without such heads."""
    order = effects.order
    both = pd.concat([result.heads_by_position, result.suppressing_heads_by_position], ignore_index=True)
    place = ["layer", "head", "position"]
    both = both.astype(dict.fromkeys(place, int))  # an empty table's columns have no types
    rows = both.drop_duplicates(place).loc[lambda rows: np.isfinite(rows[order])]
    if rows.empty:
        return None
    heads = strongest_groups(rows, order, ["layer", "head"], _MOST_HEADS)
    rows = rows.merge(heads)
    positions = strongest_groups(rows, order, ["position"], _MOST_POSITIONS)["position"]
    most = largest(rows[order].to_numpy())
    cells = {
        (row["layer"], row["head"], row["position"]): number_cell(
            row[order], effect_text(order, row[order], 3), math.copysign(level(row[order], most), row[order])
        )
        for row in records(rows)
    }
    names = list(heads.itertuples(index=False, name=None))
    return {
        "heads": [f"{layer}.{head}" for layer, head in names],
        "lines": [
            (
                position,
                visible(result.tokens[position]),
                [cells.get((*head, position), Cell("")) for head in names],
            )
            for position in positions
        ],
        "n_tokens": len(result.tokens),
        "attention": [
            (row_name(row), visible(row["token"]), row["position"], percent(row["attention"]))
            for row in records(result.heads_by_position.head(5))
        ],
    }


def query_sheet(result: Attribution) -> dict[str, Any] | None:
    """Return the FFN neurons and heads that activate the value neurons of either kind, in one table."""
    queries = result.query_neurons
    if queries is None:
        return None
    sides = {"attention": queries.of_attention, "FFN": queries.of_ffn}
    found: dict[tuple[str, str], Row] = {}
    for side, tables in sides.items():
        for kind, table in (("FFN neuron", tables.ffn_neurons), ("head", tables.heads)):
            for row in records(table):
                name, token = row_name(row), visible(row["token"]) if "token" in row else ""
                known = found.setdefault(
                    (kind, name), {"part": name, "kind": kind, "token": token, "both": ""}
                )
                known[side] = row["score"]
                known["both"] = "yes" if row.get("value_neuron") else known["both"]

    def strength(row: Row) -> float:
        return sum(abs(row[side]) for side in sides if math.isfinite(row.get(side, math.nan)))

    def score(side: str) -> Callable[[Row], Cell | str]:
        return lambda row: number_cell(row[side], signed(row[side])) if side in row else "not listed"

    sheet = sheet_of(
        sorted(found.values(), key=lambda row: -strength(row))[:_SHOWN],
        ("part", "", itemgetter("part")),
        ("kind", "", itemgetter("kind")),
        ("at token", "token", itemgetter("token")),
        *((f"activates {side} neurons", "number", score(side)) for side in sides),
        ("value neuron too", "", itemgetter("both")),
    )
    words = [f"{value_neurons_words(tables)} of {side}" for side, tables in sides.items()]
    return {"sheet": sheet, "words": words, "score": QUERY_SCORE}


def ablation_sheet(ablation: Ablation) -> dict[str, Any]:
    """Return an ablation: its finding, parts, and the target before, after and after random controls."""
    return {
        "finding": ablation_finding(ablation),
        "target": visible(ablation.target[1]),
        "against": [visible(text) for _, text in ablation.against],
        "how": ablation.how,
        "parts": " ".join(part.name for part in ablation.parts),
        "sheet": sheet_of(
            ablation_rows(ablation),
            ("", "", itemgetter("when")),
            ("rank", "number", itemgetter("rank")),
            number_column("probability", "probability", percent),
            number_column("log p", "log_probability"),
            *([number_column("log-odds", "log_odds")] if ablation.against else []),
            ("KL on plain text", "number", lambda row: divergence(row["kl"]) if "kl" in row else ""),
        ),
    }
