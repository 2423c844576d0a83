"""Altair chart of the query graph, layers upwards."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from mnemoscope.report.charts import apply_theme, data, shapes, signs
from mnemoscope.report.graph_figure import Grid, in_columns
from mnemoscope.report.readable import readable
from mnemoscope.report.text import about
from mnemoscope.report.theme import LOWERS, RAISES, TEXT
from mnemoscope.report.tokens import at_position, shortened
from mnemoscope.results.query import QueryGraph

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
