"""The charts of a report: pictures that need no script, and what a script makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from markupsafe import Markup

from mnemoscope.attribution.result import Attribution
from mnemoscope.view.charts.figures import figures
from mnemoscope.view.charts.look import svg_in_page
from mnemoscope.view.json_text import json_text


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

    upgrade = resources.files("mnemoscope.view") / "templates" / "report.js"
    return Markup(vl_convert.javascript_bundle(upgrade.read_text(encoding="utf-8")))
