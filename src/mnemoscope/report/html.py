"""A result as one HTML page that opens offline."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mnemoscope._io import json_text
from mnemoscope.report.charts import figures
from mnemoscope.report.charts.theme import svg_in_page
from mnemoscope.report.export import csv_bytes
from mnemoscope.report.text import (
    NAMES,
    NOTHING_READ,
    QUERY_SCORE,
    Effects,
    any_of,
    effect_text,
    percent,
    places,
    plain_number,
    queries_are_missing,
    signed,
    sum_of_layers,
    target_facts,
    targets_words,
    value_facts,
    value_neurons_asked,
    value_neurons_skipped,
    what_is_proven,
)
from mnemoscope.report.tokens import visible
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import QUERY_TABLES, records
from mnemoscope.results.query import QueryTables

_FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "plain_number": plain_number,
    "signed": signed,
    "visible": visible,
}


@cache
def templates() -> Environment:
    """The templates of all pages; nothing they are given becomes markup unless it is `Markup`."""
    environment = Environment(
        loader=PackageLoader("mnemoscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


def digest(text: str) -> str:
    """By which the policy of a page knows its own style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@dataclass(frozen=True)
class ReportChart:
    """A chart of the page.

    Attributes:
        name: of the figure.
        title: its heading.
        words: what it shows.
        picture: the chart as SVG.
        spec: the same for Vega-Lite.
    """

    name: str
    title: str
    words: str
    picture: Markup
    spec: dict[str, Any]


def report_charts(result: Attribution) -> dict[str, ReportChart]:
    """The charts that the result has something for, by name."""
    found = {}
    for figure in figures(result):
        spec = figure.chart(result).to_dict()
        del spec["$schema"]  # an address, which nothing in the page is to have
        picture = svg_in_page(spec, figure.name)
        found[figure.name] = ReportChart(figure.name, figure.title, figure.words, picture, spec)
    return found


def specs_text(charts: dict[str, ReportChart]) -> Markup:
    """All charts as JSON for a script element, which no token can end: only texts hold the sign of tags."""
    text = json_text({name: chart.spec for name, chart in charts.items()})
    return Markup(text.replace("<", r"\u003c"))


@cache
def script() -> Markup:
    """The one script of the page: Vega-Lite with all it needs, and what upgrades the pictures."""
    import vl_convert

    upgrade = resources.files("mnemoscope.report") / "templates" / "report.js"
    return Markup(vl_convert.javascript_bundle(upgrade.read_text(encoding="utf-8")))


_MOST_ROWS = 50
# A longer file makes the page too heavy to open and to send.
_MOST_BYTES = 700_000

_RAISING, _LOWERING = "Raising", "Lowering"
_GROUPS = (
    (
        "FFN neurons",
        "ffn_neurons",
        "Each adds its column of the down projection, times its coefficient, at the last position. "
        "The tokens it promotes and demotes take the coefficient's sign into account.",
    ),
    (
        "Attention neurons",
        "attention_neurons",
        "One dimension of a head's value at one position of the prompt, weighted by attention.",
    ),
    (
        "Attention neurons, positions added up",
        "attention_neurons_summed",
        "The same neurons with all positions of the prompt together.",
    ),
    (
        "Heads at positions",
        "positions",
        "What a head brings from one token, and the share of its attention that the token gets.",
    ),
)
# The chart that stands before the tables of a group.
_CHART_OF = {"ffn_neurons": "neurons", "positions": "positions"}
# What activates value neurons of one kind: the title of each sheet by the table it shows.
_QUERY_SHEETS = {
    "query_layers": "Layers",
    "query_heads": "Heads",
    "query_ffn_neurons": "FFN neurons",
    "query_attention_neurons": "Attention neurons",
}
_QUERY_HEADINGS = {
    "score": "query score",
    "inner_product": "inner product",
    "value_neuron": "query-value",
}


@dataclass(frozen=True)
class Sheet:
    """A table of the page.

    Attributes:
        name: of the result's table.
        title: its heading.
        headings: of its columns, by name.
        rows: the first rows.
        left_out: number of further rows.
        decimals: places of each effect.
        order: the effect that the rows are ordered by, which has bars.
        largest: its largest magnitude.
    """

    name: str
    title: str
    headings: dict[str, str]
    rows: list[dict[str, Any]]
    left_out: int
    decimals: dict[str, int]
    order: str
    largest: float

    @classmethod
    def of(cls, result: Attribution, name: str, title: str) -> Sheet:
        """The first rows of one of the result's tables."""
        effects = Effects.of(result)
        shown = effects.with_mediated()
        table: pd.DataFrame = getattr(result, name)
        columns = tuple(name for name in map(str, table) if name in shown or name not in NAMES)
        rows = records(table.head(_MOST_ROWS), columns)
        for row in rows:
            if row.get("expert", 0) < 0:
                row["expert"] = ""  # of a dense layer or a shared expert
        ordering = [abs(row[effects.order]) for row in rows if math.isfinite(row[effects.order])]
        return cls(
            name=name,
            title=title,
            headings={column: NAMES.get(column, column) for column in columns},
            rows=rows,
            left_out=len(table) - len(rows),
            decimals={column: places(row[column] for row in rows) for column in shown},
            order=effects.order,
            largest=max(ordering, default=0.0),
        )

    @classmethod
    def of_query(cls, name: str, table: pd.DataFrame, title: str, headings: dict[str, str]) -> Sheet:
        """The first rows of a table of query neurons, or of the value neurons they were asked of."""
        columns = QUERY_TABLES[name]
        rows = records(table.head(_MOST_ROWS), columns)
        scores = [row["score"] for row in rows]
        return cls(
            name=name,
            title=title,
            headings={column: headings.get(column, column.replace("_", " ")) for column in columns},
            rows=rows,
            left_out=len(table) - len(rows),
            decimals={"score": places(scores)},
            order="score",
            largest=max((abs(score) for score in scores if math.isfinite(score)), default=0.0),
        )


def render_html(result: Attribution) -> str:
    """The whole page as text."""
    style = templates().get_template("report.css").render()
    effects = Effects.of(result)
    charts = report_charts(result)
    return (
        templates()
        .get_template("report.html")
        .render(
            result=result,
            style=Markup(style),
            style_hash=digest(style),
            script=script(),
            script_hash=digest(script()),
            charts=charts,
            specs=specs_text(charts),
            downloads=_downloads(result),
            effects=effects,
            effect_text=effect_text,
            share=_share,
            sign=_sign,
            meanings=effects.meanings(effects.with_mediated()),
            asked=targets_words(result.targets),
            any_of=any_of,
            value_facts=value_facts(result.targets),
            target_facts=target_facts,
            depth_sheets=[
                Sheet.of(result, "layers", "Layers"),
                Sheet.of(result, "heads", "Heads"),
            ],
            groups=_groups(result),
            query_sides=_query_sides(result),
            query_score=QUERY_SCORE,
            nothing_read=NOTHING_READ if queries_are_missing(result) else "",
            proven=what_is_proven(result),
            sum_of_layers=sum_of_layers(result),
            origin=_origin(result),
        )
    )


def _downloads(result: Attribution) -> dict[str, str]:
    """The address of each file that the page holds, by name; empty where it would be too long for it."""
    files = {"result.json": ("application/json", result.json_bytes())}
    for name, table in result.tables().items():
        if len(table):
            files[f"{name}.csv"] = ("text/csv", csv_bytes(table))
    return {
        name: f"data:{kind};base64,{base64.b64encode(content).decode()}"
        if len(content) <= _MOST_BYTES
        else ""
        for name, (kind, content) in files.items()
    }


def _groups(result: Attribution) -> list[dict[str, Any]]:
    return [
        {
            "title": title,
            "text": text,
            "name": name,
            "chart": _CHART_OF.get(name, ""),
            "wide": name == "ffn_neurons",
            "sheets": [
                Sheet.of(result, name, _RAISING),
                Sheet.of(result, f"suppressing_{name}", _LOWERING),
            ],
        }
        for title, name, text in _GROUPS
    ]


def _query_sides(result: Attribution) -> list[dict[str, Any]]:
    if result.query_neurons is None:
        return []
    return [
        _query_side("Attention value neurons", result.query_neurons.of_attention, ""),
        _query_side("FFN value neurons", result.query_neurons.of_ffn, "_of_ffn"),
    ]


def _query_side(title: str, tables: QueryTables, ending: str) -> dict[str, Any]:
    """What activates value neurons of one kind, and who was asked."""
    asked = tables.value_neurons.sort_values("score", ascending=False, kind="stable")
    return {
        "title": title,
        "asked": value_neurons_asked(tables),
        "skipped": value_neurons_skipped(tables),
        "sheets": [
            Sheet.of_query(f"{name}{ending}", table, heading, _QUERY_HEADINGS)
            for (name, heading), table in zip(
                _QUERY_SHEETS.items(),
                (tables.layers, tables.heads, tables.ffn_neurons, tables.attention_neurons),
                strict=True,
            )
        ],
        "value_neurons": Sheet.of_query(f"query_value_neurons{ending}", asked, title, {"score": "direct"}),
    }


def _origin(result: Attribution) -> dict[str, str]:
    origin = result.provenance
    return {
        "model": origin.model,
        "revision": origin.revision,
        "architecture": origin.architecture,
        "weights": origin.dtype,
        **{f"version of {name}": version for name, version in origin.versions.items()},
        **{f"option {name}": str(value) for name, value in origin.options.items()},
    }


def _share(score: float, largest: float) -> float:
    """Length of a bar as a part of the longest."""
    return round(abs(score) / largest, 4) if largest and math.isfinite(score) else 0.0


def _sign(score: float) -> str:
    return "raises" if score > 0 else "lowers"
