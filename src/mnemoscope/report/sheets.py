"""The tables of a report on an attribution."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from mnemoscope.report.figures import level
from mnemoscope.report.findings import (
    ablation_finding,
)
from mnemoscope.report.text import (
    QUERY_SCORE,
    Effects,
    controls_rank,
    divergence,
    effect_text,
    part_in_mixture,
    percent,
    prediction_names,
    rank_text,
    signed,
    value_neurons_words,
)
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
        kind: class of the cell: `number`, `token`, `tokens`, `words`, `bar`, `heat`, or empty.
        share: length of a bar, 0 to 1; step of a heat cell, `-LEVELS` to `LEVELS`.
    """

    text: str
    value: str = ""
    kind: str = ""
    share: float = 0.0


class Sheet(NamedTuple):
    """A table: headings, each with its kind, and rows."""

    headings: tuple[tuple[str, str], ...]
    rows: list[list[Cell]]


def number_cell(value: float, text: str, kind: str = "number", share: float = 0.0) -> Cell:
    """Return the cell of a number that sorts by its value."""
    return Cell(text, f"{value:.6g}" if math.isfinite(value) else "", kind, share)


def _effect(name: str, row: dict[str, Any], largest: float = 0.0) -> Cell:
    """Return the cell of an effect, with a bar if the largest magnitude is given."""
    value = row[name]
    text = effect_text(name, value, 3)
    if not largest:
        return number_cell(value, text)
    share = abs(value) / largest if math.isfinite(value) else 0.0
    return number_cell(value, text, "bar", math.copysign(round(share, 4), value))


def _largest(rows: list[dict[str, Any]], name: str) -> float:
    return max((abs(row[name]) for row in rows if math.isfinite(row[name])), default=0.0)


def layers_sheet(result: Attribution, effects: Effects) -> Sheet:
    """Return attention and FFN of each layer, the last layer first."""
    rows = records(result.layers.sort_values(["layer", "kind"], ascending=[False, True]))
    names = effects.with_mediated()
    return Sheet(
        (("layer", "number"), ("part", ""), *((name, "number") for name in names)),
        [
            [
                Cell(str(row["layer"]), kind="number"),
                Cell(row["kind"]),
                *(_effect(name, row) for name in names),
            ]
            for row in rows
        ],
    )


def neurons_sheet(result: Attribution, effects: Effects, side: str) -> Sheet:
    """Return the neurons of both kinds of one direction, the strongest first."""
    last = result.tokens[-1]
    names = effects.columns()
    tables = {
        "FFN": getattr(result, f"{side}ffn_neurons"),
        "attention": getattr(result, f"{side}attention_neurons"),
    }
    rows: list[dict[str, Any]] = []
    for kind, table in tables.items():
        for row in records(table.head(_MOST_ROWS)):
            rows.append({"token": last, "promotes": None, **row, "kind": kind})
    order = effects.order
    rows.sort(key=lambda row: -abs(row[order]) if math.isfinite(row[order]) else math.inf)
    most = _largest(rows, order)
    return Sheet(
        (
            ("neuron", ""),
            ("kind", ""),
            ("reads", "token"),
            *((name, "bar" if name == order else "number") for name in names),
            ("activation", "number"),
            ("promotes", "tokens"),
        ),
        [
            [
                Cell(part_in_mixture(row)),
                Cell(row["kind"]),
                Cell(visible(row["token"]), kind="token"),
                *(_effect(name, row, most if name == order else 0.0) for name in names),
                number_cell(row["coefficient"], signed(row["coefficient"]).removeprefix("+")),
                Cell(
                    "–" if row["promotes"] is None else " ".join(map(visible, row["promotes"][:8])),
                    kind="tokens",
                ),
            ]
            for row in rows[:_MOST_ROWS]
        ],
    )


def sums_sheet(result: ContinuationAttribution) -> Sheet:
    """Return the neurons with the largest sums over the target's tokens, of both signs and kinds."""
    rows: list[dict[str, Any]] = []
    for name, kind in (("ffn_neurons", "FFN"), ("attention_neurons_summed", "attention")):
        for side in ("", "suppressing_"):
            table: pd.DataFrame = getattr(result, f"{side}{name}")
            rows += [{"promotes": (), **row, "kind": kind} for row in records(table.head(_SHOWN))]
    rows.sort(key=lambda row: -abs(row["direct"]))
    rows = rows[:_SHOWN]
    tokens = prediction_names(result)[:_MOST_TOKENS]
    names = [f"direct_{number}" for number in range(len(tokens))]
    most = _largest(rows, "direct")
    return Sheet(
        (
            ("neuron", ""),
            ("kind", ""),
            ("sum", "bar"),
            *((token, "number") for token in tokens),
            ("promotes", "tokens"),
        ),
        [
            [
                Cell(row_name(row)),
                Cell(row["kind"]),
                _effect("direct", row, most),
                *(number_cell(row[name], signed(row[name])) for name in names),
                Cell(" ".join(map(visible, row["promotes"][:5])) or "–", kind="tokens"),
            ]
            for row in rows
        ],
    )


def reads_table(result: Attribution, effects: Effects) -> dict[str, Any] | None:
    """Return the strongest heads over the tokens they read: effects in nats, None without such heads."""
    order = effects.order
    both = pd.concat([result.heads_by_position, result.suppressing_heads_by_position], ignore_index=True)
    rows = records(both.drop_duplicates(["layer", "head", "position"]))
    rows = [row for row in rows if math.isfinite(row[order])]
    if not rows:
        return None
    heads = _strongest(rows, order, ("layer", "head"), _MOST_HEADS)
    positions = _strongest(
        [row for row in rows if (row["layer"], row["head"]) in heads], order, ("position",), _MOST_POSITIONS
    )
    at = {(row["layer"], row["head"], row["position"]): row for row in rows}
    most = _largest([row for key, row in at.items() if key[:2] in heads], order)
    lines = []
    for (position,) in sorted(positions):
        cells = []
        for layer, head in sorted(heads):
            row = at.get((layer, head, position))
            if row is None:
                cells.append(Cell(""))
                continue
            step = level(row[order], most)
            text = effect_text(order, row[order], 3)
            cells.append(number_cell(row[order], text, "heat", math.copysign(step, row[order])))
        lines.append((position, visible(result.tokens[position]), cells))
    first = records(result.heads_by_position.head(5))
    return {
        "heads": [f"{layer}.{head}" for layer, head in sorted(heads)],
        "lines": lines,
        "n_tokens": len(result.tokens),
        "attention": [
            (
                row_name(row),
                visible(row["token"]),
                row["position"],
                percent(row["attention"]),
            )
            for row in first
        ],
    }


def _strongest(
    rows: list[dict[str, Any]], order: str, names: tuple[str, ...], most: int
) -> set[tuple[int, ...]]:
    """Return the keys with the largest sums of magnitudes."""
    sums: dict[tuple[int, ...], float] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        sums[key] = sums.get(key, 0.0) + abs(row[order])
    return set(sorted(sums, key=lambda key: (-sums[key], key))[:most])


def query_sheet(result: Attribution) -> dict[str, Any] | None:
    """Return the FFN neurons and heads that activate the value neurons of either kind, in one table."""
    queries = result.query_neurons
    if queries is None:
        return None
    sides = {"attention": queries.of_attention, "ffn": queries.of_ffn}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for side, tables in sides.items():
        for kind, table in (("FFN neuron", tables.ffn_neurons), ("head", tables.heads)):
            for row in records(table):
                key = kind, row_name(row)
                at = (row["position"], row["token"]) if "position" in row else None
                known = found.setdefault(key, {"attention": None, "ffn": None, "at": at, "both": False})
                known[side] = row["score"]
                known["both"] |= bool(row.get("value_neuron"))

    def strength(row: dict[str, Any]) -> float:
        return sum(abs(row[side]) for side in sides if row[side] is not None and math.isfinite(row[side]))

    listed = sorted(found.items(), key=lambda item: -strength(item[1]))[:_SHOWN]
    rows = [
        [
            Cell(name),
            Cell(kind),
            Cell("" if row["at"] is None else visible(row["at"][1]), kind="token"),
            *(
                Cell("not listed", kind="number")
                if row[side] is None
                else number_cell(row[side], signed(row[side]))
                for side in sides
            ),
            Cell("yes" if row["both"] else ""),
        ]
        for (kind, name), row in listed
    ]
    headings = (
        ("part", ""),
        ("kind", ""),
        ("at token", "token"),
        ("activates attention neurons", "number"),
        ("activates FFN neurons", "number"),
        ("value neuron too", ""),
    )
    words = [
        f"{value_neurons_words(tables)} of {kind}"
        for kind, tables in (("attention", queries.of_attention), ("FFN", queries.of_ffn))
    ]
    return {"sheet": Sheet(headings, rows), "words": words, "score": QUERY_SCORE}


def ablation_sheet(ablation: Ablation) -> dict[str, Any]:
    """Return an ablation: its finding, parts, and the target before, after and after random controls."""
    before, after, mean = ablation.before, ablation.after, ablation.controls_mean
    rows = [
        ("before", rank_text(before), before, ""),
        ("after", rank_text(after), after, divergence(ablation.plain_text.kl)),
        (f"{len(ablation.controls)} random", controls_rank(ablation), mean, divergence(mean["kl"])),
    ]
    odds = ("log_odds",) if ablation.against else ()
    names = ("rank", "probability", "log p", *("log-odds" for _ in odds), "KL on plain text")
    return {
        "finding": ablation_finding(ablation),
        "target": visible(ablation.target[1]),
        "against": [visible(text) for _, text in ablation.against],
        "how": ablation.how,
        "parts": " ".join(part.name for part in ablation.parts),
        "sheet": Sheet(
            (("", ""), *((name, "number") for name in names)),
            [
                [
                    Cell(when),
                    Cell(rank, kind="number"),
                    number_cell(numbers["probability"], percent(numbers["probability"])),
                    number_cell(numbers["log_probability"], signed(numbers["log_probability"])),
                    *(number_cell(numbers[name], signed(numbers[name])) for name in odds),
                    Cell(kl, kind="number"),
                ]
                for when, rank, numbers, kl in rows
            ],
        ),
    }
