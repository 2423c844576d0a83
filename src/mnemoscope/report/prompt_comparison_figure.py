"""The map of two predictions: A, B and their difference beside each other, on common scales."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup, escape

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
from mnemoscope.report.text import signed
from mnemoscope.report.theme import KINDS, Depth, ends_of, largest
from mnemoscope.results.prompt_comparison import PromptComparison

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
