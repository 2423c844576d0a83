"""Drawings of the query graph, layers upwards: a small static SVG for reports, and an Altair chart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from mnemoscope.report.charts import apply_theme, data, shapes, signs
from mnemoscope.report.readable import readable
from mnemoscope.report.text import about, signed, signed_percent, targets_words
from mnemoscope.report.theme import LOWERS, RAISES, TEXT
from mnemoscope.report.tokens import at_position, shortened, visible
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


_CHART = Grid(slot=58, row=46, left=92, top=34, gap=18, letter=6.2, widest=6.0)
_SHAPES = {
    "ffn": "circle",
    "attention": "diamond",
    "head": "square",
    "embeddings": "triangle-up",
    "biases": "cross",
}
_BOTTOM = "embeddings"


def query_graph(graph: QueryGraph) -> Any:
    """Draw each part at the token it reads and in its layer; a line leads from a writer to its reader.

    The width of a line is its share of what the reader reads; lines of negative shares are broken. Value
    neurons have a ring.
    """
    graph = readable(graph)
    nodes = _placed(graph)
    edges = _lines(graph, nodes)
    width = float(nodes["right"].max()) if len(nodes) else _CHART.left
    levels = nodes.drop_duplicates("level")
    height = _CHART.top + _CHART.row * len(levels)
    # Every layer has the same scales, in pixels from the top left corner.
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, width], nice=False, zero=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[height, 0], nice=False, zero=False))
    chart = alt.layer(
        *_grid(nodes, levels, x, y),
        _edge_marks(edges, x, y),
        *_node_marks(nodes, x, y),
    ).properties(width=width, height=height)
    return apply_theme(chart, "What activates the value neurons", about(graph.prompt, graph.targets))


def _placed(graph: QueryGraph) -> pd.DataFrame:
    """Return the nodes with their places: a column for each token that is read, two rows for each layer."""
    nodes = graph.nodes.copy()
    nodes["level"] = [
        f"{layer} {'FFN' if kind == 'ffn' else 'attention'}" if pd.notna(layer) else _BOTTOM
        for layer, kind in zip(nodes["layer"], nodes["kind"], strict=True)
    ]
    # The FFN of a layer reads what its attention wrote.
    nodes["depth_of_level"] = nodes["layer"].astype("Float64").fillna(-1) + 0.5 * (nodes["kind"] == "ffn")
    nodes = nodes.sort_values(["depth_of_level", "position", "kind", "head", "neuron"], kind="stable")
    levels = sorted(nodes["depth_of_level"].unique(), reverse=True)
    nodes["row"] = nodes["depth_of_level"].map(levels.index)
    nodes = in_columns(nodes, _CHART)
    nodes["reads"] = list(map(at_position, nodes["position"], nodes["token"]))
    nodes["gives"] = nodes["value_score"].fillna(0) + nodes["query_score"].fillna(0)
    nodes["does"] = nodes["gives"].ge(0).map({True: "raises", False: "lowers"})
    return nodes


def _lines(graph: QueryGraph, nodes: pd.DataFrame) -> pd.DataFrame:
    """Return the links with the places of their ends, the strongest last and so on top."""
    ends = nodes.set_index("id")
    edges = graph.edges.iloc[::-1].copy()
    for end, (x, y) in {"source": ("x", "y"), "target": ("x2", "y2")}.items():
        edges[x], edges[y] = edges[end].map(ends["x"]), edges[end].map(ends["y"])
        edges[f"{end}_name"] = edges[end].map(ends["kind"] + " " + ends["name"])
    edges["magnitude"] = edges["share"].abs()
    return edges


def _grid(nodes: pd.DataFrame, levels: pd.DataFrame, x: alt.X, y: alt.Y) -> list[Any]:
    """Draw the tokens above their columns, lines between the columns, and the layers beside their rows."""
    columns = nodes.drop_duplicates("position").sort_values("position")
    room = ((columns["right"] - columns["left"]) / _CHART.letter).astype(int)
    tokens = columns.assign(
        text=[shortened(text, fits) for text, fits in zip(columns["reads"], room, strict=True)],
        x=(columns["left"] + columns["right"]) / 2,
        y=10,
    )
    between = columns.iloc[1:].assign(x=lambda rows: rows["left"] - _CHART.gap / 2)
    names = levels.assign(x=0, text=levels["level"])
    heading = pd.DataFrame({"x": [0], "y": [10], "text": ["layer"]})
    return [
        alt.Chart(data(between.loc[:, ["x"]])).mark_rule(color=TEXT, opacity=0.25, aria=False).encode(x=x),
        _texts(tokens, "center", x, y, 11),
        _texts(pd.concat([heading, names.loc[:, ["x", "y", "text"]]]), "left", x, y, 11),
    ]


def _texts(table: pd.DataFrame, align: Any, x: alt.X, y: alt.Y, size: int) -> alt.Chart:
    mark = alt.Chart(data(table.loc[:, ["x", "y", "text"]])).mark_text(
        align=align, baseline="middle", color=TEXT, fontSize=size, aria=False
    )
    return mark.encode(x=x, y=y, text="text:N")


def _edge_marks(edges: pd.DataFrame, x: alt.X, y: alt.Y) -> alt.Chart:
    columns = ["x", "y", "x2", "y2", "source_name", "target_name", "share", "score", "magnitude"]
    largest = float(edges["magnitude"].max()) if len(edges) else 1.0
    raises = "datum.share >= 0"
    return (
        alt.Chart(data(edges.loc[:, columns]))
        .mark_rule(opacity=0.45, aria=False)
        .encode(
            x=x,
            y=y,
            x2="x2:Q",
            y2="y2:Q",
            strokeWidth=alt.StrokeWidth(
                "magnitude:Q", legend=None, scale=alt.Scale(domain=[0, largest], range=[0.4, _CHART.widest])
            ),
            color=alt.condition(raises, alt.value(RAISES), alt.value(LOWERS)),
            strokeDash=alt.condition(raises, alt.value([1, 0]), alt.value([4, 3])),
            tooltip=[
                alt.Tooltip("source_name:N", title="from"),
                alt.Tooltip("target_name:N", title="to"),
                alt.Tooltip("share:Q", format="+.1%"),
                alt.Tooltip("score:Q", title="score (nats)", format="+.4f"),
            ],
        )
    )


def _node_marks(nodes: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    columns = ["x", "y", "kind", "name", "reads", "writes", "depth", "gives", "does", "explained"]
    base = alt.Chart(data(nodes.loc[:, columns])).encode(x=x, y=y)
    ring = base.transform_filter("datum.depth == 0").mark_point(
        shape="circle", size=260, color=TEXT, strokeWidth=1.5, opacity=1, aria=False
    )
    points = base.mark_point(filled=True, color=TEXT, size=80, opacity=1, aria=False).encode(
        shape=shapes("kind", _SHAPES, alt.Legend(orient="bottom")),
        color=signs("does"),
        tooltip=[
            "kind:N",
            "name:N",
            alt.Tooltip("reads:N", title="at token"),
            alt.Tooltip("writes:O", title="writes at position"),
            alt.Tooltip("gives:Q", title="gives (nats)", format="+.4f"),
            alt.Tooltip("explained:Q", title="explained by its links", format=".1%"),
        ],
    )
    named = nodes.loc[~nodes["kind"].isin([_BOTTOM, "biases"])]
    names = _texts(named.assign(y=named["y"] + 17, text=named["name"]), "center", x, y, 10)
    return [ring, points, names]
