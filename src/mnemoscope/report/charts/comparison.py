"""A comparison of methods as one chart: what each does to the target, and what it costs plain text."""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING, Any

import altair as alt

from mnemoscope.report.charts.parts import label_places
from mnemoscope.report.charts.theme import CONTROL, PIXELS, TEXT, apply_theme
from mnemoscope.report.terminal.depth import RAISES
from mnemoscope.report.terminal.methods import KINDS, name_of
from mnemoscope.report.tokens import visible
from mnemoscope.results.columns import records

if TYPE_CHECKING:
    from mnemoscope.study.comparison import Comparison


_LEFT, _RIGHT = 280, 400
_ROW = 22
_LOWEST = 320
_FALL = "fall of log p of the target (nats)"
_KL = "KL on plain text (nats per token, log scale)"

Chart = alt.LayerChart | alt.HConcatChart


def chart(comparison: Comparison) -> Chart:
    """Effects of the methods beside each other (left), and against their collateral (right).

    The right panel, and in it a method or control, is left out where no KL above 0 is known.
    """
    rows = _rows(comparison)
    height = max(_LOWEST, _ROW * len(rows))
    left = _effects(rows, height, several=comparison.n_facts > 1)
    weighed = [row for row in rows if math.isfinite(row["drop"]) and row["kl"] > 0]
    panels = alt.hconcat(left, _against_collateral(weighed, height), spacing=40) if weighed else left
    return apply_theme(panels.properties(title=_title(comparison)))


def chart_bytes(comparison: Comparison, form: str) -> bytes:
    """The chart as the content of an `"svg"`, `"png"` or `"html"` file; none of them fetches anything."""
    drawn = chart(comparison)
    if form == "png":
        image = io.BytesIO()
        drawn.save(image, format="png", scale_factor=PIXELS)
        return image.getvalue()
    text = io.StringIO()
    if form == "svg":
        drawn.save(text, format="svg")
    else:
        # The menu's editor is a web page, which would be sent the data.
        actions = {"export": True, "source": False, "compiled": False, "editor": False}
        options = {"embed_options": {"actions": actions}, "json_kwds": {"cls": _ForScripts}}
        drawn.save(text, format="html", inline=True, **options)
    return text.getvalue().encode()


class _ForScripts(json.JSONEncoder):
    """JSON for a script element, which a prompt that holds `</script>` must not end."""

    def encode(self, o: Any) -> str:
        """Without the sign that tags begin with, which only texts hold."""
        return super().encode(o).replace("<", r"\u003c")


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    from mnemoscope.study.comparison import CONTROLS

    summary = comparison.summary()
    rows = records(summary, ("method", "title", "drop", "drop_low", "drop_high", "kl"))
    for row in rows:
        row["name"] = visible(name_of(row["method"], row["title"]))
        row["control"] = row["method"] in CONTROLS
    return rows


def _title(comparison: Comparison) -> alt.TitleParams:
    terms, first = comparison.terms, comparison.outcomes.iloc[0]
    if comparison.n_facts == 1:
        # Signs for spaces are in few fonts, and one of them turns the whole title into another.
        prompt, target = (first[name].strip(" ") or first[name] for name in ("prompt", "target"))
        about = f"{visible(prompt)} → {visible(target)}"
    else:
        about = f"{comparison.n_facts:,} facts, 95 % intervals"
    zeroed = f"the first {terms.top:,} {KINDS[terms.kind]} of each method zeroed together"
    model = visible(comparison.provenance.model)
    return alt.TitleParams(about, subtitle=f"{model}, {zeroed}", limit=_LEFT + _RIGHT)


def _effects(rows: list[dict[str, Any]], height: int, *, several: bool) -> alt.LayerChart:
    there = [row for row in rows if math.isfinite(row["drop"])]
    names = [row["name"] for row in rows]
    base = alt.Chart(_data(there)).encode(
        y=alt.Y("name:N", sort=names, title=None, scale=alt.Scale(domain=names)), color=_color()
    )
    layers = [_zero("x")]
    if several:
        layers.append(
            base.mark_rule(strokeWidth=2).encode(x=alt.X("drop_low:Q", title=_FALL), x2="drop_high:Q")
        )
    layers.append(base.mark_point(filled=True, opacity=1, size=64).encode(x=alt.X("drop:Q", title=_FALL)))
    return alt.layer(*layers).properties(width=_LEFT, height=height)


def _against_collateral(rows: list[dict[str, Any]], height: int) -> alt.LayerChart:
    """One labelled point a method: the higher, the more effect; the further left, the less collateral."""
    x_domain, y_domain = (
        _padded([math.log10(row["kl"]) for row in rows]),
        _padded([row["drop"] for row in rows]),
    )
    pixels = [
        (
            _RIGHT * (math.log10(row["kl"]) - x_domain[0]) / (x_domain[1] - x_domain[0]),
            height * (y_domain[1] - row["drop"]) / (y_domain[1] - y_domain[0]),
        )
        for row in rows
    ]
    places = label_places(pixels, [row["name"] for row in rows], _RIGHT, height)
    placed = [
        {
            **row,
            "align": place.align,
            "is_far": place.is_far,
            "label_kl": 10 ** (x_domain[0] + place.x / _RIGHT * (x_domain[1] - x_domain[0])),
            "label_drop": y_domain[1] - place.y / height * (y_domain[1] - y_domain[0]),
        }
        for row, place in zip(rows, places, strict=True)
    ]
    scale = alt.Scale(type="log", domain=[10**end for end in x_domain], nice=False)
    x = {"scale": scale, "title": _KL, "axis": alt.Axis(values=_round_numbers(x_domain), format="~g")}
    y = {"scale": alt.Scale(domain=y_domain, nice=False), "title": _FALL}
    points = alt.Chart(_data(placed)).encode(x=alt.X("kl:Q", **x), y=alt.Y("drop:Q", **y), color=_color())
    lines = (
        alt.Chart(_data([row for row in placed if row["is_far"]]))
        .mark_rule(color=TEXT, strokeWidth=0.75)
        .encode(x=alt.X("kl:Q", **x), y=alt.Y("drop:Q", **y), x2="label_kl:Q", y2="label_drop:Q")
    )
    labels = [
        alt.Chart(_data([row for row in placed if row["align"] == align]))
        .mark_text(align=align, baseline="middle", color=TEXT, fontSize=11)
        .encode(x=alt.X("label_kl:Q", **x), y=alt.Y("label_drop:Q", **y), text="name:N")
        for align in ("left", "center", "right")
    ]
    marks = points.mark_point(filled=True, opacity=1, size=64)
    return alt.layer(lines, *labels, marks).properties(width=_RIGHT, height=height)


def _padded(values: list[float]) -> tuple[float, float]:
    """From the least to the most, with room for labels."""
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.5
    return low - room, high + room


def _round_numbers(domain: tuple[float, float]) -> list[float]:
    """1, 2 and 5 times powers of ten, as few of them as say enough; the domain is of logarithms."""
    low, high = domain
    digits = (1,) if high - low > 3 else (1, 3) if high - low > 1.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high))
    return [float(f"{digit}e{power}") for power in powers for digit in digits]


def _zero(axis: str) -> alt.Chart:
    return alt.Chart(_data([{"drop": 0}])).mark_rule(color=TEXT).encode(**{axis: "drop:Q"})


def _color() -> Any:
    return alt.condition("datum.control", alt.value(CONTROL), alt.value(RAISES))


def _data(rows: list[dict[str, Any]]) -> alt.Data:
    return alt.Data(values=[_finite(row) for row in rows])


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """NaN and infinities are no JSON."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
