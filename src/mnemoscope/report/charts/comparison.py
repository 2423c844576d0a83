"""Chart of a comparison of methods: the fall of log p, and the collateral on plain text."""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd

from mnemoscope.report.charts import apply_theme, data, point_labels, with_labels
from mnemoscope.report.text import comparison_rows, zeroed_words
from mnemoscope.report.theme import CONTROL, RAISES, TEXT
from mnemoscope.report.tokens import unspaced, visible

if TYPE_CHECKING:
    from mnemoscope.study.comparison import Comparison


_LEFT, _RIGHT = 280, 400
_ROW = 22
_LOWEST = 320
_KL = "KL on plain text (nats per token, log scale)"

_COLOR = alt.condition("datum.control", alt.value(CONTROL), alt.value(RAISES))

Chart = alt.LayerChart | alt.HConcatChart


def chart(comparison: Comparison) -> Chart:
    """Draw the fall of log p of each method (left), and the fall over the KL on plain text (right).

    The right panel leaves out methods and controls without a KL above 0; without any the panel is left out.
    """
    rows = comparison_rows(comparison)
    height = max(_LOWEST, _ROW * len(rows))
    left = _effects(rows, height, several=comparison.n_facts > 1)
    weighed = [row for row in rows if math.isfinite(row["drop"]) and row["kl"] > 0]
    panels = alt.hconcat(left, _against_collateral(weighed, height), spacing=40) if weighed else left
    return apply_theme(panels.properties(title=_title(comparison)))


def _title(comparison: Comparison) -> alt.TitleParams:
    first = comparison.outcomes.iloc[0]
    if comparison.n_facts == 1:
        title = f"{unspaced(first['prompt'])} → {unspaced(first['target'])}"
        title += f" over {unspaced(first['against'])}" if "against" in first else ""
    else:
        title = f"{comparison.n_facts:,} facts, 95 % intervals"
    subtitle = f"{visible(comparison.provenance.model)}, {zeroed_words(comparison, 'each method')}"
    return alt.TitleParams(title, subtitle=subtitle, limit=_LEFT + _RIGHT)


def _fall(rows: list[dict[str, Any]]) -> str:
    return f"fall of {'log-odds' if 'log_odds' in rows[0] else 'log p'} of the target (nats)"


def _effects(rows: list[dict[str, Any]], height: int, *, several: bool) -> alt.LayerChart:
    names = [row["name"] for row in rows]
    base = alt.Chart(data([row for row in rows if math.isfinite(row["drop"])])).encode(
        y=alt.Y("name:N", sort=names, title=None, scale=alt.Scale(domain=names)), color=_COLOR
    )
    x = alt.X("drop:Q", title=_fall(rows))
    layers = [alt.Chart(data({"drop": [0]})).mark_rule(color=TEXT).encode(x="drop:Q")]
    if several:
        low = alt.X("drop_low:Q", title=_fall(rows))
        layers.append(base.mark_rule(strokeWidth=2).encode(x=low, x2="drop_high:Q"))
    layers.append(base.mark_point(filled=True, opacity=1, size=64).encode(x=x))
    return alt.layer(*layers).properties(width=_LEFT, height=height)


def _against_collateral(rows: list[dict[str, Any]], height: int) -> alt.LayerChart:
    """Draw a point for each method: higher for more effect, further left for less collateral."""
    points = pd.DataFrame(rows)
    exponent = np.log10(points["kl"])
    left, right = exponents = _padded(exponent.tolist())
    low, high = ends = _padded(points["drop"].tolist())
    scale = alt.Scale(type="log", domain=[10**end for end in exponents], nice=False)
    ticks = alt.Axis(values=_round_numbers(exponents), format="~g")
    y_scale = alt.Scale(domain=list(ends), nice=False)
    # Controls often share one place; their names are in the left panel.
    points = with_labels(
        points.assign(label=points["name"]),
        ((exponent - left) / (right - left) * _RIGHT, (high - points["drop"]) / (high - low) * height),
        points["drop"].where(~points["control"]),
        _RIGHT,
    )
    base = alt.Chart(data(points)).encode(
        x=alt.X("kl:Q", scale=scale, title=_KL, axis=ticks),
        y=alt.Y("drop:Q", scale=y_scale, title=_fall(rows)),
    )
    marks = base.mark_point(filled=True, opacity=1, size=64).encode(
        color=_COLOR,
        tooltip=["name:N", alt.Tooltip("drop:Q", format="+.3f"), alt.Tooltip("kl:Q", format=".2g")],
    )
    return alt.layer(*point_labels(base, "drop", (high - low) / height), marks).properties(
        width=_RIGHT, height=height
    )


def _padded(values: list[float]) -> tuple[float, float]:
    """Return the range of the values with room for labels."""
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.5
    return low - room, high + room


def _round_numbers(domain: tuple[float, float]) -> list[float]:
    """Return powers of ten, times 3 or 2 and 5 in narrow domains; the domain is of logarithms."""
    low, high = domain
    digits = (1,) if high - low > 3 else (1, 3) if high - low > 1.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high))
    return [float(f"{digit}e{power}") for power in powers for digit in digits]


def chart_html(comparison: Comparison) -> str:
    """Return the chart as a page that fetches nothing."""
    # Vega's menu could send the data to an editor on the web.
    actions = {"export": True, "source": False, "compiled": False, "editor": False}
    options = {"embed_options": {"actions": actions}, "json_kwds": {"cls": _ForScripts}}
    page = io.StringIO()
    chart(comparison).save(page, format="html", inline=True, **options)
    return page.getvalue()


class _ForScripts(json.JSONEncoder):
    """JSON encoder for script elements: a prompt with `</script>` must not end the element."""

    def encode(self, o: Any) -> str:
        """Escape the sign that begins tags; only texts contain it."""
        return super().encode(o).replace("<", r"\u003c")
