"""Circuits in a terminal: nodes, faithfulness and completeness, the curve, and comparisons of methods."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console, RenderableType
from rich.text import Text

from mnemoscope.report.terminal import (
    Column,
    Row,
    abreast,
    bar_column,
    number_column,
    origin_text,
    print_blocks,
    table_of,
    title_text,
    token_text,
)
from mnemoscope.report.text import circuit_summary, node_name, plain_number, ratio_text
from mnemoscope.report.tokens import visible
from mnemoscope.results.circuit import Circuit, CircuitComparison, Ratio
from mnemoscope.results.columns import records

if TYPE_CHECKING:
    from mnemoscope.results.prediction import Prediction

_MOST_NODES = 30
_MOST_EDGES = 12
_SIDE_BY_SIDE = 100


def render_circuit(circuit: Circuit, console: Console) -> None:
    """Print a circuit."""
    nodes = records(circuit.nodes.head(_MOST_NODES))
    columns = [
        Column("node", node_name, whole=True),
        number_column("score", "score", plain_number),
        bar_column("score", nodes),
    ]
    tables = [table_of(_title("Nodes", nodes, circuit.nodes), nodes, columns), curve_table(circuit.curve)]
    names = [node_name(row) for row in records(circuit.nodes)]
    edges = records(circuit.edges.head(_MOST_EDGES))
    links = [
        Column("node", lambda row: names[row["source"]]),
        Column("read by", lambda row: names[row["target"]]),
        number_column("share", "share", plain_number),
    ]
    print_blocks(
        console,
        Text("\n".join(circuit_summary(circuit))),
        abreast(tables, console.width, _SIDE_BY_SIDE),
        *([table_of(_title("Links", edges, circuit.edges), edges, links)] if edges else []),
        origin_text(circuit.provenance),
    )


def _title(title: str, shown: list[Row], table: pd.DataFrame) -> Text:
    """Return the heading of a table, with the number of rows shown unless those are all."""
    return title_text(title, f"{len(shown)} of {len(table)}" if len(table) > len(shown) else "")


def render_contrast(neurons: pd.DataFrame, console: Console) -> None:
    """Print neurons by the difference of their activations between two sets of prompts."""
    shown = records(neurons.head(_MOST_NODES))
    columns = [
        Column("neuron", node_name, whole=True),
        number_column("positive", "positive", plain_number),
        number_column("negative", "negative", plain_number),
        number_column("difference", "score", plain_number),
        bar_column("score", shown),
    ]
    print_blocks(
        console,
        table_of(_title("Mean activations at the last position", shown, neurons), shown, columns),
        Text("A difference tells the sets apart; only an ablation shows an effect.", "dim"),
    )


def curve_table(curve: pd.DataFrame) -> RenderableType:
    """Return the table of F and K over sizes."""
    columns = [
        number_column("size", "size", "{:,}".format),
        number_column("share", "share", lambda share: f"{100 * share:.3g} %"),
        number_column("F", "faithfulness", _two_digits),
        number_column("K", "completeness", _two_digits),
        number_column("F random", "random", _two_digits),
        number_column("F matched", "matched", _two_digits),
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
                number_column("probability", "probability", lambda share: f"{100 * share:.1f} %"),
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
            number_column("nodes", "size", "{:,}".format),
            *(number_column(title, name, _size) for title, name in _SIZES.items()),
            *(number_column(title, name, _two_digits) for title, name in _NUMBERS.items()),
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
        blocks.append(table_of(title, records(comparison.agreement), columns))
    print_blocks(console, *blocks)


# Intervals are in the files of a comparison.
_NUMBERS = {"F": "faithfulness", "K": "completeness", "CPR": "cpr", "CMD": "cmd"}
_SIZES = {"F ≥ 0.9 from": "reaches", "±0.1 from": "within_0.1", "±0.2 from": "within_0.2"}


def _size(value: Any) -> str:
    return "never" if pd.isna(value) else f"{value:,}"


def _two_digits(value: Any) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
