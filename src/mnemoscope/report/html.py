"""A result as one HTML page that opens offline, and the frame of all pages."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mnemoscope._io import json_text
from mnemoscope.report.charts import svg_in_page
from mnemoscope.report.charts.attribution import figures
from mnemoscope.report.export import csv_bytes
from mnemoscope.report.text import (
    EFFECTS,
    NOTHING_READ,
    QUERY_SCORE,
    Effects,
    any_of,
    effect_text,
    list_certificates,
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
)
from mnemoscope.report.tokens import visible
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import QUERY_TABLES, records
from mnemoscope.results.query import QueryTables


@cache
def templates() -> Environment:
    """Return the templates of all pages; only `Markup` values are markup, all others are escaped."""
    environment = Environment(
        loader=PackageLoader("mnemoscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, plain_number=plain_number, signed=signed, visible=visible)
    return environment


def page(template: str, styles: tuple[str, ...], scripts: str = "", **values: Any) -> str:
    """Render a page whose policy allows its own style and scripts only, by their SHA-256."""
    style = Markup("".join(templates().get_template(name).render() for name in styles))
    return (
        templates()
        .get_template(template)
        .render(
            style=style,
            style_hash=_digest(style),
            script=scripts,
            script_hash=_digest(scripts),
            **values,
        )
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def data_address(kind: str, content: bytes, most: float = math.inf) -> str:
    """Return a file of a media type as a `data:` address, empty if the file has more than `most` bytes."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if len(content) <= most else ""


def origin_rows(about: Mapping[str, Any], **more: str) -> dict[str, str]:
    """Return the model, versions and options of a provenance or manifest by heading."""
    return {
        "model": about["model"],
        "revision": str(about["revision"]),
        "architecture": about["architecture"],
        "weights": about["dtype"],
        **more,
        **{f"version of {name}": version for name, version in about["versions"].items()},
        **{f"option {name}": str(value) for name, value in about["options"].items()},
    }


def _report_charts(result: Attribution) -> dict[str, dict[str, Any]]:
    """Return each figure's name, title, words, Vega-Lite specification and SVG picture, by name."""
    found = {}
    for figure in figures(result):
        spec = figure.chart(result).to_dict()
        del spec["$schema"]  # a web address, which the page must not contain
        picture = svg_in_page(spec, figure.name)
        found[figure.name] = {
            "name": figure.name,
            "title": figure.title,
            "words": figure.words,
            "picture": picture,
            "spec": spec,
        }
    return found


@cache
def _script() -> Markup:
    """Return the script of the page: Vega-Lite, and the code that replaces pictures by live charts."""
    import vl_convert

    upgrade = resources.files("mnemoscope.report") / "templates" / "report.js"
    return Markup(vl_convert.javascript_bundle(upgrade.read_text(encoding="utf-8")))


_MOST_ROWS = 50
# Longer files would make the page too heavy to open and to send.
_MOST_BYTES = 700_000

# Title, table, explanation and chart of each group of tables.
_GROUPS = (
    (
        "FFN neurons",
        "ffn_neurons",
        "Each adds its column of the down projection, times its coefficient, at the last position. "
        "The tokens it promotes and demotes take the coefficient's sign into account.",
        "neurons",
    ),
    (
        "Attention neurons",
        "attention_neurons",
        "One dimension of a head's value at one position of the prompt, weighted by attention.",
        "",
    ),
    (
        "Attention neurons, positions added up",
        "attention_neurons_summed",
        "Attention neurons with all positions of the prompt added up.",
        "",
    ),
    (
        "Heads at positions",
        "heads_by_position",
        "Effect of a head from one token, and the share of its attention that the token gets.",
        "positions",
    ),
)
_QUERY_HEADINGS = {
    "score": "query score",
    "inner_product": "inner product",
    "value_neuron": "query-value",
}


@dataclass(frozen=True)
class Sheet:
    """A table of the page.

    Attributes:
        name: name of the result's table.
        title: the heading.
        headings: headings of the columns, by name.
        rows: the first rows.
        left_out: number of further rows.
        decimals: decimal places of each effect.
        order: effect that orders the rows and has bars.
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
        """Take the first rows of one of the result's tables."""
        effects = Effects.of(result)
        shown = effects.with_mediated()
        table = getattr(result, name)
        headings = {column: column for column in map(str, table) if column in shown or column not in EFFECTS}
        return cls._of(name, table, title, headings, shown, effects.order)

    @classmethod
    def of_query(cls, name: str, table: pd.DataFrame, title: str, headings: dict[str, str]) -> Sheet:
        """Take the first rows of a table of query neurons or of their value neurons."""
        effect = "direct" if "direct" in QUERY_TABLES[name] else "score"
        named = {column: headings.get(column, column.replace("_", " ")) for column in QUERY_TABLES[name]}
        return cls._of(name, table, title, named, (effect,), effect)

    @classmethod
    def _of(
        cls,
        name: str,
        table: pd.DataFrame,
        title: str,
        headings: dict[str, str],
        scores: tuple[str, ...],
        order: str,
    ) -> Sheet:
        rows = records(table.head(_MOST_ROWS), tuple(headings))
        for row in rows:
            if row.get("expert", 0) < 0:
                row["expert"] = ""  # of a dense layer or a shared expert
        return cls(
            name=name,
            title=title,
            headings=headings,
            rows=rows,
            left_out=len(table) - len(rows),
            decimals={column: places(row[column] for row in rows) for column in scores},
            order=order,
            largest=max((abs(row[order]) for row in rows if math.isfinite(row[order])), default=0.0),
        )


def render_html(result: Attribution) -> str:
    """Return the page of a result."""
    effects = Effects.of(result)
    charts = _report_charts(result)
    # Only texts contain the sign that begins tags, so no token can end the script element.
    specs = json_text({name: chart["spec"] for name, chart in charts.items()}).replace("<", r"\u003c")
    return page(
        "report.html",
        ("report.css",),
        _script(),
        result=result,
        charts=charts,
        specs=Markup(specs),
        downloads=_downloads(result),
        effects=effects,
        effect_text=effect_text,
        share=_share,
        meanings=effects.meanings(effects.with_mediated()),
        asked=targets_words(result.targets),
        any_of=any_of,
        value_facts=value_facts(result.targets),
        target_facts=target_facts,
        depth_sheets=[Sheet.of(result, "layers", "Layers"), Sheet.of(result, "heads", "Heads")],
        groups=_groups(result),
        query_sides=_query_sides(result),
        query_score=QUERY_SCORE,
        nothing_read=NOTHING_READ if queries_are_missing(result) else "",
        certificates=[*list_certificates(result), sum_of_layers(result)],
        origin=origin_rows(vars(result.provenance)),
    )


def _share(score: float, largest: float) -> float:
    """Return the length of a bar as a share of the longest."""
    return round(abs(score) / largest, 4) if largest and math.isfinite(score) else 0.0


def _downloads(result: Attribution) -> dict[str, str]:
    """Return the address of each file of the page by name, empty for files too long for the page."""
    files = {"result.json": data_address("application/json", result.json_bytes(), _MOST_BYTES)}
    for name, table in result.tables().items():
        if len(table):
            files[f"{name}.csv"] = data_address("text/csv", csv_bytes(table), _MOST_BYTES)
    return files


def _groups(result: Attribution) -> list[dict[str, Any]]:
    return [
        {
            "title": title,
            "text": text,
            "name": name,
            "chart": chart,
            "wide": name == "ffn_neurons",
            "sheets": [
                Sheet.of(result, name, "Raising"),
                Sheet.of(result, f"suppressing_{name}", "Lowering"),
            ],
        }
        for title, name, text, chart in _GROUPS
    ]


def _query_sides(result: Attribution) -> list[dict[str, Any]]:
    if result.query_neurons is None:
        return []
    return [
        _query_side("Attention value neurons", result.query_neurons.of_attention, ""),
        _query_side("FFN value neurons", result.query_neurons.of_ffn, "_of_ffn"),
    ]


def _query_side(title: str, tables: QueryTables, ending: str) -> dict[str, Any]:
    """Return the query tables of value neurons of one kind, and those value neurons."""
    asked = tables.value_neurons.sort_values("direct", ascending=False, kind="stable")
    sheets = {
        "query_layers": ("Layers", tables.layers),
        "query_heads": ("Heads", tables.heads),
        "query_ffn_neurons": ("FFN neurons", tables.ffn_neurons),
        "query_attention_neurons": ("Attention neurons", tables.attention_neurons),
    }
    return {
        "title": title,
        "asked": value_neurons_asked(tables),
        "skipped": value_neurons_skipped(tables),
        "sheets": [
            Sheet.of_query(f"{name}{ending}", table, heading, _QUERY_HEADINGS)
            for name, (heading, table) in sheets.items()
        ],
        "value_neurons": Sheet.of_query(f"query_value_neurons{ending}", asked, title, {}),
    }
