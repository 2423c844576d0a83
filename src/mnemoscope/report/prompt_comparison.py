"""A comparison of two predictions as one HTML page, in the frame of all reports."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from mnemoscope.report.export import json_bytes
from mnemoscope.report.figures import (
    TOP,
    WIDTH,
    MapLayout,
    bar,
    head_cells,
    head_labels,
    layer_labels,
    svg_text,
)
from mnemoscope.report.findings import Sentence, Token, model_title, targets_parts
from mnemoscope.report.pages import report_page
from mnemoscope.report.readable import readable
from mnemoscope.report.repeat import comparison_command, comparison_python
from mnemoscope.report.sheets import Cell, Row, Sheet, largest_of, number_cell, number_column, sheet_of
from mnemoscope.report.text import comparison_certificates, part_in_mixture, signed, value_facts
from mnemoscope.report.theme import KINDS, Depth, ends_of, largest
from mnemoscope.report.tokens import visible
from mnemoscope.results.columns import records
from mnemoscope.results.prompt_comparison import PromptComparison

_MOST_ROWS = 100  # of a table
_MOST_BYTES = 350_000


def render_html(result: PromptComparison) -> str:
    """Return the page of a comparison: A, B and Diff of layers, heads and neurons."""
    sides = {"A": readable(result.a), "B": readable(result.b)}
    a, b = (targets_parts(side.targets.answers) for side in sides.values())
    return report_page(
        "comparison.html",
        (f"Why {model_title(result.provenance)} says ", *a, " in A and ", *b, " in B"),
        result.provenance,
        json_bytes(result.to_json()),
        _MOST_BYTES,
        sides={
            name: {
                "prompt": side.prompt,
                "target": targets_parts(side.targets.answers),
                "against": targets_parts(side.targets.against),
                "facts": value_facts(side.targets),
            }
            for name, side in sides.items()
        },
        findings=_findings(result),
        map=compared_map(result, "map"),
        layers=sheet(result, "layers", len(result.layers)),
        panels={
            "heads": ("Heads", sheet(result, "heads")),
            "ffn": ("FFN neurons", sheet(result, "ffn_neurons")),
            "attention": (
                "Attention neurons, positions added up",
                sheet(result, "attention_neurons_summed"),
            ),
        },
        certificates=comparison_certificates(result),
        command=comparison_command(result),
        python=comparison_python(result),
    )


def _part(name: str, row: Row) -> str:
    """Name the part of a row, as `24.1005`; a block by its kind and layer."""
    if name == "layers":
        return f"{KINDS[row['kind']]} of layer {row['layer']}"
    return part_in_mixture(row)


def sheet(result: PromptComparison, name: str, most: int = _MOST_ROWS) -> Sheet:
    """Return the first rows of a table, with A, B and Diff in nats with three decimals."""
    table: pd.DataFrame = getattr(result, name)
    rows = records(table.head(most))
    largest = largest_of(rows, "diff")

    def difference(row: Row) -> Cell:
        share = row["diff"] / largest if largest and math.isfinite(row["diff"]) else 0.0
        return number_cell(row["diff"], signed(row["diff"]), share)

    def promoted(row: Row) -> str:
        return " ".join(map(visible, row["promotes"][:8])) or "–"

    return sheet_of(
        rows,
        ("part", "", partial(_part, name)),
        number_column("A", "a"),
        number_column("B", "b"),
        ("Diff", "bar", difference),
        *([("promotes", "tokens", promoted)] if "promotes" in table else []),
    )


def _findings(result: PromptComparison) -> list[Sentence]:
    """Return a sentence on the largest difference of each kind of part."""
    names = {
        "layers": "the ",
        "heads": "head ",
        "ffn_neurons": "neuron ",
        "attention_neurons_summed": "attention neuron ",
    }
    found: list[Sentence] = []
    for name, kind in names.items():
        table: pd.DataFrame = getattr(result, name)
        if table.empty:
            continue
        (row,) = records(table.head(1))
        part = f"{kind}{_part(name, row)}"
        sentence: list[str | Token] = [
            f"{part[0].upper()}{part[1:]} differs most: {signed(row['a'])} nats in A, "
            f"{signed(row['b'])} in B (Diff {signed(row['diff'])})"
        ]
        if len(row.get("promotes", ())):
            sentence += [", and promotes ", Token(visible(row["promotes"][0]))]
        found.append((*sentence, "."))
    return found


SIDES = {"a": "A", "b": "B", "diff": "Diff"}
_LABEL, _GAP = 40, 14
_BARS = 0.52  # share of the width that the bars take


def compared_map(result: PromptComparison, name: str) -> Markup:
    """Draw attention, FFN and heads by layer (the last on top), for A, B and Diff each.

    All bars have one scale, and all cells another, so that a difference is as long as it is large.

    Args:
        result: the comparison.
        name: id of the figure.
    """
    depths = {side: Depth.of(result, side) for side in ("a", "b", "diff")}
    first = depths["a"]
    room = WIDTH * (1 - _BARS) - len(SIDES) * _GAP
    layout = MapLayout(
        first.n_layers,
        first.n_heads,
        cell=round(min(18.0, room / (len(SIDES) * first.n_heads)), 2),
        heads=WIDTH * _BARS,
    )
    words = "Map: direct effects of attention, FFN and heads by layer in A, B and their difference"
    return Markup(
        f'<svg class="map" id="{name}" role="img" aria-label="{escape(words)}" '
        f'viewBox="0 0 {WIDTH} {layout.height:g}">'
        f"{layer_labels(layout)}{_bars(depths, layout)}{_cells(depths, layout)}</svg>"
    )


def _bars(depths: dict[str, Depth], layout: MapLayout) -> str:
    """Draw a column of bars for each kind of block and side; `data-nat` is the pixels of a nat."""
    low, high = ends_of(np.concatenate([depth.block_scores() for depth in depths.values()]))
    width = (layout.heads - _LABEL) / (len(KINDS) * len(SIDES)) - _GAP
    per_nat = width / (high - low) if high > low else 0.0
    columns = [(kind, side) for kind in KINDS for side in SIDES]
    shapes = []
    for place, (kind, side) in enumerate(columns):
        left = _LABEL + place * (width + _GAP)
        zero = left - low * per_nat
        bars = "".join(
            bar(score, zero, per_nat, layout.y(layer), layout.row)
            for layer, score in enumerate(depths[side].blocks[kind])
            if np.isfinite(score)
        )
        shapes.append(
            f'<g data-kind="{kind}" data-side="{side}" data-nat="{per_nat:.6g}">'
            f"{svg_text(left, 10, f'{KINDS[kind]} {SIDES[side]}')}{bars}"
            f'<path class="axis" d="M{zero:.2f} {TOP}V{layout.bottom:g}"/></g>'
        )
    ends = svg_text(_LABEL, TOP - 4, signed(low, 2), "small")
    return "".join(shapes) + ends + svg_text(_LABEL + width, TOP - 4, signed(high, 2), "end small")


def _cells(depths: dict[str, Depth], layout: MapLayout) -> str:
    """Draw a block of cells for each side."""
    most = max(largest(depth.heads) for depth in depths.values())
    width = layout.cell * layout.n_heads + _GAP
    shapes = []
    for place, (side, depth) in enumerate(depths.items()):
        left = layout.heads + place * width
        shapes.append(
            f'<g data-side="{side}" data-most="{most:.6g}">{svg_text(left, 10, f"heads {SIDES[side]}")}'
            f"{head_labels(left, layout)}{head_cells(depth.heads, most, left, layout)}</g>"
        )
    return "".join(shapes)
