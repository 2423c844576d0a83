"""Files of circuits: the folder of a circuit, its page, and the folder of a comparison of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mnemoscope._io import check_folder, write_into
from mnemoscope.report.charts import picture, svg_in_page
from mnemoscope.report.export import csv_bytes, json_bytes
from mnemoscope.report.findings import model_title
from mnemoscope.report.pages import origin_rows, page
from mnemoscope.report.sheets import Cell, Sheet
from mnemoscope.report.text import circuit_summary, node_name, plain_number
from mnemoscope.report.tokens import visible
from mnemoscope.results import io
from mnemoscope.results.circuit import Circuit, CircuitComparison
from mnemoscope.results.columns import records

_MOST_ROWS = 200


def rendered(circuit: Circuit, ending: str) -> bytes:
    """Return a circuit's chart (`.svg`, `.png`) or page (`.html`) as the content of a file."""
    if ending == ".html":
        return render_page(circuit).encode()
    return picture(circuit.chart(), "circuit", ending.removeprefix("."))


def write_circuit(circuit: Circuit, folder: Path) -> Path:
    """Write `circuit.json`, a CSV file of each table, `chart.svg` and `report.html` into a folder.

    Raises:
        OutputError: the folder's parent does not exist, or the folder cannot be written.
    """
    contents = {f"{name}.csv": csv_bytes(table) for name, table in circuit.tables().items()}
    contents["circuit.json"] = io.json_bytes(circuit.description(), circuit.tables(), {})
    contents |= {"chart.svg": rendered(circuit, ".svg"), "report.html": rendered(circuit, ".html")}
    return write_into(check_folder(folder), contents)


def render_page(circuit: Circuit) -> str:
    """Return a circuit as one page without scripts, which fetches nothing."""
    nodes = records(circuit.nodes)
    names = [node_name(row) for row in nodes]
    named = pd.DataFrame({"node": names, "score": circuit.nodes["score"]})
    edges = pd.DataFrame(
        {
            "node": [names[row] for row in circuit.edges["source"]],
            "read by": [names[row] for row in circuit.edges["target"]],
            "share": circuit.edges["share"],
        }
    )
    pairs = pd.DataFrame([vars(pair) for pair in circuit.test])
    return page(
        "circuit.html",
        model=model_title(circuit.provenance),
        circuit=circuit,
        lines=circuit_summary(circuit),
        chart=Markup(svg_in_page(circuit.chart().to_dict(), "circuit")),
        tables=[
            _table("Nodes", named),
            _table("Links", edges),
            _table("Curve", circuit.curve),
            _table("Test pairs", pairs),
        ],
        origin=origin_rows(vars(circuit.provenance)),
    )


def _table(title: str, table: pd.DataFrame) -> dict[str, Any]:
    rows = [
        [Cell(plain_number(cell) if isinstance(cell, float) else visible(str(cell))) for cell in row.values()]
        for row in records(table.head(_MOST_ROWS))
    ]
    left_out = len(table) - len(rows)
    note = f"{left_out:,} more rows are in the files of the circuit." if left_out else ""
    headings = tuple((str(name).replace("_", " "), "") for name in table)
    return {"title": title, "sheet": Sheet(headings, rows), "note": note}


def write_comparison(comparison: CircuitComparison, folder: Path) -> Path:
    """Write `summary.csv`, `curves.csv`, `agreement.csv`, `comparison.json` and `chart.svg` into a folder.

    Raises:
        OutputError: the folder's parent does not exist, or the folder cannot be written.
    """
    contents = {f"{name}.csv": csv_bytes(table) for name, table in comparison.tables().items()}
    contents["comparison.json"] = json_bytes(comparison.to_json())
    contents["chart.svg"] = picture(comparison.chart(), "comparison")
    return write_into(check_folder(folder), contents)
