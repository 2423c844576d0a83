"""A result as one HTML page that opens offline: no scripts, nothing fetched, light and dark."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mnemoscope.attribution.result import TABLES, Attribution, records
from mnemoscope.view.depth import Depth
from mnemoscope.view.facts import sum_of_layers, what_is_proven
from mnemoscope.view.figure import figure_of
from mnemoscope.view.numbers import percent, places, plain_number, signed
from mnemoscope.view.tokens import visible

_MOST_ROWS = 200

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


@dataclass(frozen=True)
class Sheet:
    """A table of the page.

    Attributes:
        name: of the result's table.
        title: its heading.
        columns: their names.
        rows: the first rows.
        left_out: number of further rows.
        decimals: places of the scores.
        largest: largest magnitude of the scores, for the bars.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    left_out: int
    decimals: int
    largest: float

    @classmethod
    def of(cls, result: Attribution, name: str, title: str) -> Sheet:
        """The first rows of one of the result's tables."""
        table: pd.DataFrame = getattr(result, name)
        rows = records(table.head(_MOST_ROWS), TABLES[name])
        scores = [row["score"] for row in rows]
        largest = max((abs(score) for score in scores if math.isfinite(score)), default=0.0)
        left_out = len(table) - len(rows)
        return cls(name, title, TABLES[name], rows, left_out, places(scores), largest)


def render_html(result: Attribution) -> str:
    """The whole page as text."""
    style = _environment().get_template("report.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template("report.html")
        .render(
            result=result,
            style=Markup(style),
            style_hash=f"sha256-{digest}",
            chart=figure_of(Depth.of(result)),
            depth_sheets=[
                Sheet.of(result, "layers", "Layers"),
                Sheet.of(result, "heads", "Heads"),
            ],
            groups=_groups(result),
            proven=what_is_proven(result),
            sum_of_layers=sum_of_layers(result),
            origin=_origin(result),
        )
    )


def _groups(result: Attribution) -> list[dict[str, Any]]:
    return [
        {
            "title": title,
            "text": text,
            "wide": name == "ffn_neurons",
            "sheets": [
                Sheet.of(result, name, _RAISING),
                Sheet.of(result, f"suppressing_{name}", _LOWERING),
            ],
        }
        for title, name, text in _GROUPS
    ]


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


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mnemoscope.view"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        plain_number=plain_number,
        share=_share,
        sign=_sign,
        signed=signed,
        visible=visible,
    )
    return environment
