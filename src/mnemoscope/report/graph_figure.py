"""The query graph of a report: tokens at the bottom, layers upwards, the target on top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from mnemoscope.report.text import signed, signed_percent, targets_words
from mnemoscope.report.tokens import shortened, visible
from mnemoscope.results.columns import records
from mnemoscope.results.query import QueryGraph

MOST_LINKS = 36
_LEFT, _TOP, _BOTTOM = 44, 46, 40
_ROW, _SLOT, _GAP = 40, 76, 20
_LETTER = 7.2  # pixels of one in the font of the tokens
_WIDEST = 5.0  # line of the strongest link
_LEAST_COLUMN = 64
_SHAPES = {
    "ffn": '<circle class="{sign}" cx="{x:g}" cy="{y:g}" r="6"/>',
    "attention": '<path class="{sign}" d="M{x:g} {y:g}m0 -7.5l7.5 7.5l-7.5 7.5l-7.5 -7.5z"/>',
    "head": '<path class="{sign}" d="M{x:g} {y:g}m-5.5 -5.5h11v11h-11z"/>',
    "embeddings": '<path class="{sign}" d="M{x:g} {y:g}m0 -6l6.5 11h-13z"/>',
    "biases": '<path class="{sign}" d="M{x:g} {y:g}m-1.5 -6h3v12h-3z"/>',
}


def strongest_links(graph: QueryGraph) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the nodes and edges of the links with the largest scores, at most `MOST_LINKS`.

    Value neurons stay without links too.
    """
    order = graph.edges["score"].abs().sort_values(ascending=False, kind="stable").index
    edges = graph.edges.loc[order[:MOST_LINKS]]
    kept = {*edges["source"], *edges["target"]}
    nodes = graph.nodes.loc[graph.nodes["id"].isin(kept) | (graph.nodes["depth"] == 0)]
    return nodes, edges


def graph_caption(graph: QueryGraph) -> str:
    """Say how many links are drawn, and how much of the value neurons' scores they explain."""
    _, edges = strongest_links(graph)
    whole = graph.edges["score"].abs().sum()
    share = edges["score"].abs().sum() / whole if whole else 1.0
    return (
        f"The {len(edges):,} strongest of {len(graph.edges):,} links, {share:.0%} of their scores. All links "
        "explain "
        f"{signed_percent(graph.explained).removeprefix('+')} of the value neurons' scores."
    )


def graph_svg(graph: QueryGraph, name: str) -> Markup:
    """Draw the strongest links: a part stands at the token it reads and in its layer.

    The width of a line is its score; lines that lower are broken. Value neurons have a ring and a line to the
    target.

    Args:
        graph: the query graph.
        name: id of the figure.
    """
    nodes, edges = strongest_links(graph)
    if nodes.empty:
        return Markup()
    nodes, columns = _placed(nodes)
    layers = sorted(nodes["layer"].dropna().unique())
    height = _TOP + _ROW * (len(layers) + 1) + _BOTTOM
    width = max(columns["right"].max(), 420)
    parts: Iterable[Any] = nodes.itertuples()
    ends = {row.id: row for row in parts}
    target = targets_words(graph.targets)
    shapes = [
        *_columns(columns, height, width),
        *(
            f'<text class="end mid small" x="{_LEFT - 10}" y="{row["y"]:g}">{row["layer"]:.0f}</text>'
            for row in records(nodes.dropna(subset="layer").drop_duplicates("layer"), ("layer", "y"))
        ),
        '<text class="small" x="0" y="14">layer</text>',
        *_lines(nodes, edges, ends, width),
        *map(_node, nodes.itertuples()),
        f'<text class="centre target-name" x="{width / 2:g}" y="16">{escape(target)}</text>',
    ]
    label = f"Query graph: {len(nodes)} parts and {len(edges)} links, the last layer on top"
    return Markup(
        f'<svg class="graph" id="{name}" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}">{"".join(shapes)}</svg>'
    )


def _placed(nodes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the nodes with their places, and a column for each position that is read."""
    nodes = nodes.copy()
    nodes["layer"] = nodes["layer"].astype("Float64")
    levels = sorted(nodes["layer"].dropna().unique(), reverse=True)
    rows = {layer: place for place, layer in enumerate(levels)}
    nodes["row"] = [
        rows.get(layer, len(levels)) if pd.notna(layer) else len(levels) for layer in nodes["layer"]
    ]
    nodes = nodes.sort_values(["row", "position", "kind", "id"], kind="stable")
    cells = nodes.groupby(["row", "position"], sort=False)
    nodes["slot"], nodes["in_cell"] = cells.cumcount(), cells["id"].transform("size")
    most = nodes.groupby("position").agg({"in_cell": "max", "token": "first"})
    widths = np.maximum(most["in_cell"] * _SLOT, _LEAST_COLUMN)
    left = _LEFT + (widths + _GAP).cumsum() - widths - _GAP
    columns = pd.DataFrame({"left": left, "right": left + widths, "token": most["token"]})
    free = nodes["position"].map(widths) - nodes["in_cell"] * _SLOT
    nodes["x"] = nodes["position"].map(left) + free / 2 + (nodes["slot"] + 0.5) * _SLOT
    nodes["y"] = _TOP + (nodes["row"] + 0.4) * _ROW
    return nodes, columns.reset_index()


def _columns(columns: pd.DataFrame, height: float, width: float) -> list[str]:
    """Write the tokens below their columns, with lines between these."""
    shapes = []
    rows: Iterable[Any] = columns.itertuples()
    for row in rows:
        room = int((row.right - row.left + _GAP) / _LETTER)
        text = shortened(visible(str(row.token)), max(room, 4))
        x = (row.left + row.right) / 2
        shapes.append(f'<text class="centre token-name" x="{x:g}" y="{height - 22:g}">{escape(text)}</text>')
        shapes.append(f'<text class="centre small" x="{x:g}" y="{height - 6:g}">{row.position}</text>')
        if row.Index:
            shapes.append(f'<path class="grid" d="M{row.left - _GAP / 2:g} {_TOP - 16}V{height - 36:g}"/>')
    return shapes


def _lines(nodes: pd.DataFrame, edges: pd.DataFrame, ends: dict[str, Any], width: float) -> list[str]:
    """Draw the links, the strongest last, and a line from each value neuron to the target."""
    most = float(edges["score"].abs().max()) if len(edges) else 1.0
    top = width / 2, 22.0
    shapes = [
        f'<path class="to-target" d="{_curve((row.x, row.y), top, _TOP / 2 + 8)}"/>'
        for row in nodes.loc[nodes["depth"] == 0].itertuples()
    ]
    for edge in records(edges.iloc[::-1], ("source", "target", "score", "share")):
        a, b = ends[edge["source"]], ends[edge["target"]]
        thick = max(0.6, _WIDEST * abs(edge["score"]) / (most or 1.0))
        title = (
            f"{edge['source']} → {edge['target']}: {signed(edge['score'])} nats, "
            f"{signed_percent(edge['share'])} of what it reads"
        )
        kind = "raises" if edge["score"] >= 0 else "works-against"
        curve = _curve((a.x, a.y), (b.x, b.y), (a.y + b.y) / 2)
        shapes.append(
            f'<path class="link {kind}" stroke-width="{thick:.2f}" d="{curve}">'
            f"<title>{escape(title)}</title></path>"
        )
    return shapes


def _curve(start: tuple[float, float], end: tuple[float, float], middle: float) -> str:
    (x, y), (x2, y2) = start, end
    return f"M{x:g} {y:g}C{x:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"


def _node(row: Any) -> str:
    """Draw a part with its name; the name's rim keeps lines away."""
    gives = (row.value_score or 0.0) + (row.query_score or 0.0)
    sign = "up" if gives >= 0 else "down"
    name = part_name(row)
    ring = f'<circle class="ring" cx="{row.x:g}" cy="{row.y:g}" r="10"/>' if row.depth == 0 else ""
    shape = _SHAPES[row.kind].format(sign=sign, x=row.x, y=row.y)
    place = f"reads position {row.position}, writes at {row.writes}"
    title = escape(f"{row.kind} {name}: {place}, gives {signed(gives)} nats")
    label = f'<text class="centre name" x="{row.x:g}" y="{row.y + 21:g}">{escape(name)}</text>'
    if row.kind in ("embeddings", "biases"):
        label = ""
    return f"<g>{ring}{shape}{label}<title>{title}</title></g>"


def part_name(row: Any) -> str:
    """Name a part, such as `24.1005`."""
    if row.kind == "ffn":
        return f"{row.layer:.0f}.{row.neuron}"
    if row.kind == "attention":
        return f"{row.layer:.0f}.{row.head}.{row.dim}"
    return f"{row.layer:.0f}.{row.head}" if row.kind == "head" else row.kind
