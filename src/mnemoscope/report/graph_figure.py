"""Figure of the query graph in a report as small static SVG, layers upwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from mnemoscope.report.text import signed, signed_percent, targets_words
from mnemoscope.report.tokens import shortened, visible
from mnemoscope.results.columns import records
from mnemoscope.results.parts import row_name
from mnemoscope.results.query import QueryGraph

MOST_LINKS = 36


@dataclass(frozen=True)
class Grid:
    """Sizes of a drawing of the query graph, pixels.

    Attributes:
        slot: width of a part.
        row: height of a row.
        left: room for the names of the layers.
        top: room above the rows.
        gap: room between the columns of two tokens.
        letter: width of a letter in the font of the tokens.
        widest: line of the strongest link.
        least: width of the narrowest column.
    """

    slot: float
    row: float
    left: float
    top: float
    gap: float
    letter: float
    widest: float
    least: float = 0


_PAGE = Grid(slot=76, row=40, left=44, top=46, gap=20, letter=7.2, widest=5.0, least=64)
_MARGIN = 40  # for the tokens below the figure
_SYMBOLS = {
    "ffn": '<circle class="{sign}" cx="{x:g}" cy="{y:g}" r="6"/>',
    "attention": '<path class="{sign}" d="M{x:g} {y:g}m0 -7.5l7.5 7.5l-7.5 7.5l-7.5 -7.5z"/>',
    "head": '<path class="{sign}" d="M{x:g} {y:g}m-5.5 -5.5h11v11h-11z"/>',
    "embeddings": '<path class="{sign}" d="M{x:g} {y:g}m0 -6l6.5 11h-13z"/>',
    "biases": '<path class="{sign}" d="M{x:g} {y:g}m-1.5 -6h3v12h-3z"/>',
}


def in_columns(nodes: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """Add names and places `x`, `y` of sorted nodes, and the edges `left`, `right` of their token's column.

    Nodes of one token and row stand side by side, in the middle of the column.
    """
    cells = nodes.groupby(["row", "position"], sort=False)
    nodes["slot"], nodes["in_cell"] = cells.cumcount(), cells["id"].transform("size")
    most: pd.DataFrame = nodes.groupby("position").agg({"in_cell": "max"})
    widths = np.maximum(most["in_cell"] * grid.slot, grid.least)
    left = grid.left + (widths + grid.gap).cumsum() - widths - grid.gap
    nodes["left"] = nodes["position"].map(left)
    nodes["right"] = nodes["left"] + nodes["position"].map(widths)
    free = nodes["position"].map(widths) - nodes["in_cell"] * grid.slot
    nodes["x"] = nodes["left"] + free / 2 + (nodes["slot"] + 0.5) * grid.slot
    nodes["y"] = grid.top + (nodes["row"] + 0.4) * grid.row
    nodes["name"] = [row_name(row) or row["kind"] for row in records(nodes)]
    return nodes


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
        f"explain {signed_percent(graph.explained).removeprefix('+')} of the value neurons' scores."
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
    nodes = _placed_by_layer(nodes)
    columns = nodes.drop_duplicates("position").sort_values("position").reset_index(drop=True)
    layers = sorted(nodes["layer"].dropna().unique())
    height = _PAGE.top + _PAGE.row * (len(layers) + 1) + _MARGIN
    width = max(columns["right"].max(), 420)
    parts: Iterable[Any] = nodes.itertuples()
    ends = {row.id: row for row in parts}
    target = targets_words(graph.targets)
    shapes = [
        *_tokens(columns, height, width),
        *(
            f'<text class="end mid small" x="{_PAGE.left - 10}" y="{row["y"]:g}">{row["layer"]:.0f}</text>'
            for row in records(nodes.dropna(subset="layer").drop_duplicates("layer"), ("layer", "y"))
        ),
        '<text class="small" x="0" y="14">layer</text>',
        *_curves(nodes, edges, ends, width),
        *map(_symbol, nodes.itertuples()),
        f'<text class="centre target-name" x="{width / 2:g}" y="16">{escape(target)}</text>',
    ]
    label = f"Query graph: {len(nodes)} parts and {len(edges)} links, the last layer on top"
    return Markup(
        f'<svg class="graph" id="{name}" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}">{"".join(shapes)}</svg>'
    )


def _placed_by_layer(nodes: pd.DataFrame) -> pd.DataFrame:
    """Return the nodes with their places, a row for each layer, embeddings and biases below."""
    nodes = nodes.copy()
    levels = sorted(nodes["layer"].dropna().unique(), reverse=True)
    rows = {layer: place for place, layer in enumerate(levels)}
    nodes["row"] = [rows[layer] if pd.notna(layer) else len(levels) for layer in nodes["layer"]]
    return in_columns(nodes.sort_values(["row", "position", "kind", "id"], kind="stable"), _PAGE)


def _tokens(columns: pd.DataFrame, height: float, width: float) -> list[str]:
    """Write the tokens below their columns, with lines between these."""
    shapes = []
    rows: Iterable[Any] = columns.itertuples()
    for row in rows:
        room = int((row.right - row.left + _PAGE.gap) / _PAGE.letter)
        text = shortened(visible(str(row.token)), max(room, 4))
        x = (row.left + row.right) / 2
        shapes.append(f'<text class="centre token-name" x="{x:g}" y="{height - 22:g}">{escape(text)}</text>')
        shapes.append(f'<text class="centre small" x="{x:g}" y="{height - 6:g}">{row.position}</text>')
        if row.Index:
            shapes.append(
                f'<path class="grid" d="M{row.left - _PAGE.gap / 2:g} {_PAGE.top - 16}V{height - 36:g}"/>'
            )
    return shapes


def _curves(nodes: pd.DataFrame, edges: pd.DataFrame, ends: dict[str, Any], width: float) -> list[str]:
    """Draw the links, the strongest last, and a line from each value neuron to the target."""
    most = float(edges["score"].abs().max()) if len(edges) else 1.0
    top = width / 2, 22.0
    shapes = [
        f'<path class="to-target" d="{_curve((row.x, row.y), top, _PAGE.top / 2 + 8)}"/>'
        for row in nodes.loc[nodes["depth"] == 0].itertuples()
    ]
    for edge in records(edges.iloc[::-1], ("source", "target", "score", "share")):
        a, b = ends[edge["source"]], ends[edge["target"]]
        thick = max(0.6, _PAGE.widest * abs(edge["score"]) / (most or 1.0))
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


def _symbol(row: Any) -> str:
    """Draw a part with its name; the name's rim keeps lines away."""
    gives = (row.value_score or 0.0) + (row.query_score or 0.0)
    sign = "up" if gives >= 0 else "down"
    ring = f'<circle class="ring" cx="{row.x:g}" cy="{row.y:g}" r="10"/>' if row.depth == 0 else ""
    shape = _SYMBOLS[row.kind].format(sign=sign, x=row.x, y=row.y)
    place = f"reads position {row.position}, writes at {row.writes}"
    title = escape(f"{row.kind} {row.name}: {place}, gives {signed(gives)} nats")
    label = f'<text class="centre name" x="{row.x:g}" y="{row.y + 21:g}">{escape(row.name)}</text>'
    if row.kind in ("embeddings", "biases"):
        label = ""
    return f"<g>{ring}{shape}{label}<title>{title}</title></g>"
