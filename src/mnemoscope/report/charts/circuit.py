"""Charts of circuits: faithfulness and completeness over sizes."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from mnemoscope.report.charts import apply_theme, data
from mnemoscope.report.theme import TEXT
from mnemoscope.report.tokens import visible
from mnemoscope.results.circuit import Circuit, CircuitComparison

_WIDTH, _HEIGHT = 340, 240
_SIZE = alt.X("size:Q", title="nodes kept (log scale)", scale=alt.Scale(type="log"))
_TITLES = {
    "faithfulness": "F, of the nodes alone",
    "completeness": "K, of all other nodes",
    "random": "F, random nodes",
    "matched": "F, random nodes of the same layers",
}
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [1, 3], [4, 1])


def curves(circuit: Circuit) -> Any:
    """Draw F with its interval, K and the random controls over sizes."""
    long = circuit.curve.melt("size", list(_TITLES), "line", "value").replace({"line": _TITLES})
    order = list(_TITLES.values())
    lines = (
        alt.Chart(data(long))
        .mark_line(point=True)
        .encode(
            x=_SIZE,
            y=alt.Y("value:Q", title="share of the model's logit difference"),
            color=alt.Color("line:N", sort=order, title=None),
            strokeDash=_dashes("line", order),
            tooltip=["line:N", "size:Q", alt.Tooltip("value:Q", format=".2f")],
        )
    )
    bands = [
        alt.Chart(data(circuit.curve))
        .mark_area(opacity=0.15, color=TEXT)
        .encode(x=_SIZE, y=alt.Y(f"{name}_low:Q"), y2=f"{name}_high:Q")
        for name in ("faithfulness", "completeness")
    ]
    panel = alt.layer(_rule(), *bands, lines).properties(width=2 * _WIDTH, height=_HEIGHT)
    subtitle = f"{circuit.provenance.model}, {len(circuit.test):,} test pairs, 95 % intervals"
    return apply_theme(alt.hconcat(panel), "Circuits by size", subtitle)


def comparison(found: CircuitComparison) -> Any:
    """Draw F (left) and K (right) over sizes, a row for each task and a line for each method."""
    table = found.curves()
    methods = list(dict.fromkeys(table["method"]))
    rows = [
        alt.hconcat(*(_panel(rows, str(task), name, methods) for name in ("faithfulness", "completeness")))
        for task, rows in table.groupby("task", sort=False)
    ]
    origin = next(iter(found.circuits.values()))
    subtitle = f"{origin.provenance.model}, nodes: {', '.join(origin.kinds)}, {origin.ablation} ablation"
    return apply_theme(alt.vconcat(*rows), "Circuits by method and size", subtitle)


def _panel(rows: pd.DataFrame, task: str, name: str, methods: list[str]) -> alt.LayerChart:
    lines = (
        alt.Chart(data(rows.filter(["size", "method", name])))
        .mark_line(point=True, clip=True)
        .encode(
            x=_SIZE,
            y=alt.Y(f"{name}:Q", title=f"{visible(task)}: {_TITLES[name]}"),
            color=alt.Color("method:N", scale=alt.Scale(domain=methods), sort=methods, title=None),
            strokeDash=_dashes("method", methods),
            tooltip=["method:N", "size:Q", alt.Tooltip(f"{name}:Q", format=".2f")],
        )
    )
    return alt.layer(_rule(), lines).properties(width=_WIDTH, height=_HEIGHT)


def _rule() -> alt.Chart:
    """Draw lines at 0, no node, and 1, the model."""
    return alt.Chart(data({"at": [0, 1]})).mark_rule(color=TEXT, opacity=0.5).encode(y="at:Q")


def _dashes(column: str, names: list[str]) -> alt.StrokeDash:
    ranges = [_DASHES[place % len(_DASHES)] for place in range(len(names))]
    return alt.StrokeDash(f"{column}:N", scale=alt.Scale(domain=names, range=ranges), sort=names, title=None)
