"""Circuits in a terminal: nodes, faithfulness and completeness, the curve, and comparisons of methods."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console, RenderableType
from rich.text import Text

from mnemoscope.report.terminal import (
    Column,
    abreast,
    bar_column,
    first_rows,
    origin_text,
    print_blocks,
    table_of,
    title_text,
    token_text,
)
from mnemoscope.report.text import circuit_summary, node_name, plain_number, ratio_text
from mnemoscope.report.tokens import visible
from mnemoscope.results.circuit import Circuit, Ratio
from mnemoscope.results.circuit_comparison import CircuitComparison
from mnemoscope.results.columns import records

if TYPE_CHECKING:
    from mnemoscope.results.prediction import Prediction

_MOST_NODES = 30
_MOST_EDGES = 12
_SIDE_BY_SIDE = 100


def render_circuit(circuit: Circuit, console: Console) -> None:
    """Print a circuit."""
    lines = Text("\n").join(Text(line) for line in circuit_summary(circuit))
    nodes = first_rows(circuit.nodes, _MOST_NODES)
    note = f"{len(nodes)} of {len(circuit)}" if len(circuit) > len(nodes) else ""
    tables = [
        table_of(
            title_text("Nodes", note),
            nodes,
            [
                Column("node", node_name, whole=True),
                Column("score", lambda row: plain_number(row["score"]), right=True),
                bar_column("score", nodes),
            ],
        ),
        curve_table(circuit.curve),
    ]
    names = [node_name(row) for row in records(circuit.nodes)]
    edges = first_rows(circuit.edges, _MOST_EDGES)
    blocks: list[RenderableType] = [lines, abreast(tables, console.width, _SIDE_BY_SIDE)]
    if edges:
        columns = [
            Column("node", lambda row: names[row["source"]]),
            Column("read by", lambda row: names[row["target"]]),
            Column("share", lambda row: plain_number(row["share"]), right=True),
        ]
        note = f"{len(edges)} of {len(circuit.edges)}" if len(circuit.edges) > len(edges) else ""
        blocks.append(table_of(title_text("Links", note), edges, columns))
    print_blocks(console, *blocks, origin_text(circuit.provenance))


def render_contrast(neurons: pd.DataFrame, console: Console) -> None:
    """Print neurons by the difference of their activations between two sets of prompts."""
    shown = first_rows(neurons, _MOST_NODES)
    note = f"{len(shown)} of {len(neurons)}" if len(neurons) > len(shown) else ""
    columns = [Column("neuron", node_name, whole=True)]
    for name in ("positive", "negative"):
        columns.append(Column(name, lambda row, name=name: plain_number(row[name]), right=True))
    columns += [
        Column("difference", lambda row: plain_number(row["score"]), right=True),
        bar_column("score", shown),
    ]
    print_blocks(
        console,
        table_of(title_text("Mean activations at the last position", note), shown, columns),
        Text("A difference tells the sets apart; only an ablation shows an effect.", "dim"),
    )


def curve_table(curve: pd.DataFrame) -> RenderableType:
    """Return the table of F and K over sizes."""
    columns = [
        Column("size", lambda row: f"{row['size']:,}", right=True),
        Column("share", lambda row: f"{100 * row['share']:.3g} %", right=True),
        *(
            Column(title, lambda row, name=name: _two_digits(row[name]), right=True)
            for title, name in (
                ("F", "faithfulness"),
                ("K", "completeness"),
                ("F random", "random"),
                ("F matched", "matched"),
            )
        ),
    ]
    return table_of(title_text("Curve", "best nodes by size"), records(curve), columns)


def render_ablated(
    circuit: Circuit, before: Prediction, after: Prediction, change: str, console: Console
) -> None:
    """Print the next tokens of the model and of the changed model side by side."""
    tables = [
        table_of(
            title_text(title),
            records(prediction.table, ("token", "probability")),
            [
                Column("token", lambda row: token_text(row["token"])),
                Column("probability", lambda row: f"{100 * row['probability']:.1f} %", right=True),
            ],
        )
        for title, prediction in (("Model", before), (f"{change[:1].upper()}{change[1:]}", after))
    ]
    print_blocks(console, Text(circuit_summary(circuit)[0], "dim"), abreast(tables, console.width, 60))


def render_comparison(comparison: CircuitComparison, console: Console) -> None:
    """Print the summary of a comparison of methods."""
    summary = comparison.summary()
    blocks = []
    for task, rows in summary.groupby("task", sort=False):
        columns = [
            Column("method", lambda row: row["method"]),
            Column("nodes", lambda row: f"{row['size']:,}", right=True),
            *(_size_column(title, name) for title, name in _SIZES.items()),
            *(
                Column(title, lambda row, name=name: _two_digits(row[name]), right=True)
                for title, name in _NUMBERS.items()
            ),
            Column("passes", lambda row: f"{row['forward'] + row['backward']:,}", right=True),
        ]
        blocks.append(table_of(title_text(visible(str(task))), records(rows), columns))
    if len(comparison.agreement):
        columns = [
            Column("task", lambda row: visible(row["task"])),
            Column("method", lambda row: row["method"]),
            Column(
                "Pearson r",
                lambda row: ratio_text(Ratio(row["pearson"], row["pearson_low"], row["pearson_high"])),
                right=True,
            ),
        ]
        n_nodes = comparison.agreement["n_nodes"].max()
        title = title_text("Scores and exact patching", f"{n_nodes:,} single nodes")
        blocks.append(table_of(title, first_rows(comparison.agreement, 1000), columns))
    print_blocks(console, *blocks)


# Intervals are in the files of a comparison.
_NUMBERS = {"F": "faithfulness", "K": "completeness", "CPR": "cpr", "CMD": "cmd"}
_SIZES = {"F ≥ 0.9 from": "reaches", "±0.1 from": "within_0.1", "±0.2 from": "within_0.2"}


def _size_column(title: str, name: str) -> Column:
    return Column(title, lambda row: "never" if pd.isna(row[name]) else f"{row[name]:,}", right=True)


def _two_digits(value: Any) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
