"""Figure of a report as small static SVG: the map of a model.

Colours are classes of the page: `up` raises the target, `down` lowers it and is hatched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from mnemoscope.report.text import Effects, effect_title, signed, value_name
from mnemoscope.report.theme import KINDS, Depth, ends_of, largest
from mnemoscope.results.attribution import Attribution

WIDTH = 1040
LEVELS = 20  # steps of a cell's opacity
TOP = 30  # of the first row, below the headings
_LABEL, _BAR, _NUMBER, _GAP = 52, 146, 56, 18
_COLUMN = _BAR + _NUMBER + _GAP
_HEADS = 330  # most pixels of a row of heads


@dataclass(frozen=True)
class MapLayout:
    """Places of a map in pixels, also for the page's tooltips.

    Attributes:
        n_layers, n_heads: sizes of the model; layer 0 is the lowest row.
        cell: width of a head.
        heads: left end of the cells.
    """

    n_layers: int
    n_heads: int
    cell: float
    heads: float

    @classmethod
    def of(cls, n_layers: int, n_heads: int) -> MapLayout:
        """Lay out a model with a column of bars for each kind."""
        return cls(
            n_layers, n_heads, round(min(22.0, _HEADS / n_heads), 2), float(_LABEL + len(KINDS) * _COLUMN)
        )

    @property
    def row(self) -> float:
        """Height of a layer, 10 to 22."""
        return float(min(22, max(10, 540 // self.n_layers)))

    @property
    def bottom(self) -> float:
        """Lower end of the rows."""
        return TOP + self.row * self.n_layers

    @property
    def height(self) -> float:
        """Height of the figure."""
        return self.bottom + 8

    def y(self, layer: float) -> float:
        """Return the upper end of a layer's row."""
        return TOP + (self.n_layers - 1 - layer) * self.row


def level(score: float, most: float) -> int:
    """Return the step of a cell's opacity, 0 to `LEVELS`; a score that is not a number has none."""
    return round(LEVELS * min(1.0, abs(score) / most)) if most and math.isfinite(score) else 0


def map_svg(result: Attribution, name: str) -> Markup:
    """Draw layers (the last on top) with the effects of attention, FFN and heads, and the running log p.

    The bars and cells show the effect that orders the lists, in nats; the running value adds up the direct
    effects and is left out where blocks are parallel.

    Args:
        result: the result.
        name: id of the figure.
    """
    effects = Effects.of(result)
    depth = Depth.of(result, effects.order)
    layout = MapLayout.of(depth.n_layers, depth.n_heads)
    parts = [
        *(_bars(depth, kind, layout) for kind in KINDS),
        head_cells(depth.heads, largest(depth.heads), layout.heads, layout),
        layer_labels(layout),
        svg_text(layout.heads, 10, "heads"),
        head_labels(layout.heads, layout),
        *([] if result.telescoping_error is None else [_path(result, layout)]),
    ]
    geometry = f"{layout.n_layers} {layout.n_heads} {layout.row:g} {layout.cell:g} {layout.heads:g}"
    words = f"Map: {effect_title(result)} of attention, FFN and heads by layer, the last layer on top"
    return Markup(
        f'<svg class="map" id="{name}" role="img" aria-label="{escape(words)}" data-map="{geometry} {TOP}" '
        f'viewBox="0 0 {WIDTH} {layout.height:g}">{"".join(parts)}</svg>'
    )


def svg_text(x: float, y: float, text: str, classes: str = "") -> str:
    """Return a text of a figure."""
    found = f' class="{classes}"' if classes else ""
    return f'<text{found} x="{x:g}" y="{y:g}">{escape(text)}</text>'


def layer_labels(layout: MapLayout) -> str:
    """Write the numbers of the layers, as many as fit."""
    every = 1 if layout.row >= 12 else 2
    return svg_text(0, 10, "layer") + "".join(
        svg_text(_LABEL - 26, layout.y(layer) + layout.row / 2, str(layer), "end mid")
        for layer in range(0, layout.n_layers, every)
    )


def head_labels(left: float, layout: MapLayout) -> str:
    """Write the numbers of the heads above their cells, as many as fit."""
    step = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n * layout.cell >= 18 or n == 256)
    return "".join(
        svg_text(left + (head + 0.5) * layout.cell, TOP - 4, str(head), "centre small")
        for head in range(0, layout.n_heads, step)
    )


def bar(score: float, zero: float, per_nat: float, y: float, row: float) -> str:
    """Draw a bar from the zero line, in a row of that height."""
    length = abs(score) * per_nat
    sign, start = ("up", zero) if score >= 0 else ("down", zero - length)
    return f'<rect class="{sign}" x="{start:.2f}" y="{y + 1.5:g}" width="{length:.2f}" height="{row - 3:g}"/>'


def _bars(depth: Depth, kind: str, layout: MapLayout) -> str:
    """Draw one bar for each layer on the scale that attention and FFN share, with its number."""
    low, high = ends_of(depth.block_scores())
    per_nat = _BAR / (high - low) if high > low else 0.0
    left = _LABEL + list(KINDS).index(kind) * _COLUMN
    zero = left - low * per_nat
    shapes = [svg_text(left, 10, KINDS[kind])]
    for layer, score in enumerate(depth.blocks[kind]):
        if not math.isfinite(score):
            continue
        y = layout.y(layer)
        shapes.append(bar(score, zero, per_nat, y, layout.row))
        shapes.append(svg_text(left + _BAR + _NUMBER, y + layout.row / 2, signed(score), "end mid small"))
    shapes.append(f'<path class="axis" d="M{zero:.2f} {TOP}V{layout.bottom:g}"/>')
    return f'<g data-kind="{kind}">{"".join(shapes)}</g>'


def head_cells(heads: np.ndarray, most: float, left: float, layout: MapLayout) -> str:
    """Draw one cell for each head: a path for each sign and step of opacity, on a faint grid.

    Args:
        heads: scores, `[n_layers, n_heads]`; NaN where there is no head.
        most: score of the darkest cell.
        left: left end of the cells.
        layout: places of the rows.
    """
    paths: dict[tuple[str, int], list[str]] = {}
    width, height = max(layout.cell - 1, 0.8 * layout.cell), layout.row - 1
    for layer, row in enumerate(heads):
        y = layout.y(layer)
        for head, score in enumerate(row):
            if not math.isfinite(score):
                continue
            step = level(score, most)
            place = f"M{left + head * layout.cell:g} {y:g}h{width:g}v{height:g}h{-width:g}z"
            paths.setdefault(("", 0), []).append(place)
            if step:
                paths.setdefault(("u" if score > 0 else "d", step), []).append(place)
    return "".join(
        f'<path class="{f"{sign}{step}" if step else "none"}" d="{"".join(places)}"/>'
        for (sign, step), places in sorted(paths.items())
    )


def level_rules() -> str:
    """Return the style rules of cells in figures and tables, one for each step of either sign."""
    rules = []
    for n in range(1, LEVELS + 1):
        share = n / LEVELS
        blue = _mixed("raises", 52 * share)
        dark, light = _mixed("lowers", 68 * share), _mixed("lowers", 24 * share)
        rules.append(
            f"path.u{n}{{fill:var(--raises);fill-opacity:{share:g}}}path.d{n}{{fill:url(#hatch{n})}}"
            f"td.u{n}{{background-color:{blue}}}"
            f"td.d{n}{{background-image:repeating-linear-gradient(45deg,{dark} 0 2px,{light} 2px 5px)}}"
        )
    return "".join(rules)


def _mixed(name: str, part: float) -> str:
    return f"color-mix(in srgb,var(--{name}) {part:.3g}%,transparent)"


def hatches() -> Markup:
    """Return the patterns of lowering parts: `hatch`, and one for each step of a cell."""
    patterns = "".join(
        f'<pattern id="hatch{n or ""}" class="hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="5" height="5" fill-opacity="{0.3 * share:.3g}"/>'
        f'<path d="M0 0v5" stroke-opacity="{share:.3g}"/></pattern>'
        for n, share in [(0, 1.0), *((n, n / LEVELS) for n in range(1, LEVELS + 1))]
    )
    return Markup(f'<svg class="defs" width="0" height="0" aria-hidden="true">{patterns}</svg>')


def _path(result: Attribution, layout: MapLayout) -> str:
    """Draw the value after each layer as a line, from the embeddings below to the prediction on top."""
    depth = Depth.of(result, "direct")
    added = np.nan_to_num(depth.block_scores()).sum(axis=1)
    values = [result.value_of_embeddings, *(result.value_of_embeddings + np.cumsum(added))]
    finite = [value for value in (*values, result.targets.value) if math.isfinite(value)]
    if len(finite) < len(values):
        return ""
    low, high = min(finite), max(finite)
    left = layout.heads + layout.cell * layout.n_heads + 2 * _GAP
    scale = (WIDTH - left - 8) / (high - low) if high > low else 0.0
    places = [
        (left + (value - low) * scale, layout.y(layer - 1) + layout.row / 2)
        for layer, value in enumerate(values)
    ]
    # The embeddings stand on the lower edge of layer 0.
    places[0] = (places[0][0], layout.y(0) + layout.row)
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    end = left + (result.targets.value - low) * scale
    return (
        svg_text(left, 10, f"{value_name(result.targets)} so far")
        + svg_text(left, TOP - 4, signed(low, 1), "small")
        + svg_text(WIDTH - 8, TOP - 4, signed(high, 1), "end small")
        + f'<path class="goal" d="M{end:.1f} {TOP}V{layout.bottom:g}"/><path class="line" d="M{line}"/>'
    )
