"""Parts of charts in one theme for light and dark pages, legible without colour."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from itertools import product
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert
from markupsafe import Markup

from mnemoscope.report.charts.fitting import fitted, letter_width
from mnemoscope.report.theme import DARK, LOWERS, QUIET, RAISES, TEXT, largest
from mnemoscope.report.tokens import visible, xml_text

_MOST_LABELS = 8  # points of a chart with a label; the others have tooltips
_LABEL_SIZE = 11  # pixels
_NARROWEST = 360  # pixels that labels may take in a chart that is narrower
# Transformers that a user enables evaluate nothing in these charts.
_AS_IT_IS = {"pre_transform": False}
_PIXELS = 2  # pixels of a PNG for one of the chart
_WIDEST_LABEL = 260
_STROKE = "M-1,1L1,-1"
_NAME_SPACE = re.compile(r' xmlns(:xlink)?="[^"]*"')
_ID = re.compile(r"\b(?:gradient_|clip)\d+\b")


def apply_theme(chart: Any, title: str = "", subtitle: str = "") -> Any:
    """Apply the common theme; a chart that stands alone has a title."""
    if title:
        chart = chart.properties(title=alt.TitleParams(title, subtitle=visible(subtitle), limit=900))
    return (
        chart.properties(background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=TEXT,
            titleColor=TEXT,
            titleFontWeight="normal",
            labelLimit=_WIDEST_LABEL,
            domain=False,
            ticks=False,
            gridColor=TEXT,
            gridOpacity=0.2,
        )
        .configure_axisQuantitative(labelOverlap="greedy", labelSeparation=12)
        .configure_header(labelColor=TEXT, titleColor=TEXT, labelLimit=_WIDEST_LABEL)
        .configure_legend(
            labelColor=TEXT,
            titleColor=TEXT,
            titleFontWeight="normal",
            labelLimit=_WIDEST_LABEL,
            symbolBaseFillColor=TEXT,
            symbolBaseStrokeColor=TEXT,
        )
        .configure_title(color=TEXT, subtitleColor=TEXT, anchor="start", offset=14)
        .configure_concat(spacing=24)
    )


def svg(spec: dict[str, Any], name: str) -> str:
    """Return a chart as an SVG without a background, for light and dark pages; nothing is fetched.

    The chart's description, if any, becomes the label for screen readers.

    Args:
        spec: the chart's `to_dict()`.
        name: prefix of all ids, unique in a page.
    """
    text = fitted(vl_convert.vegalite_to_svg(_in_xml(spec)))
    if "description" in spec:
        text = text.replace("<svg", f'<svg role="img" aria-label="{escape(spec["description"])}"', 1)
    # Vega numbers ids across charts, so a second drawing of a chart would differ.
    found = dict.fromkeys(_ID.findall(text))
    places = {old: f"{name}_{place}" for place, old in enumerate(found)}
    return _ID.sub(lambda match: places[match[0]], text)


def svg_in_page(spec: dict[str, Any], name: str) -> Markup:
    """Return a chart as an SVG element of an HTML page, without name spaces."""
    return Markup(_NAME_SPACE.sub("", svg(spec, name)))


def png(chart: Any) -> bytes:
    """Return a chart as a PNG on white."""
    spec = chart.properties(background="white").to_dict(context=_AS_IT_IS)
    return vl_convert.vegalite_to_png(_in_xml(spec), scale=_PIXELS)


def _in_xml(value: Any) -> Any:
    """Return a specification whose texts XML can hold; the renderer aborts the process at others."""
    if isinstance(value, str):
        return xml_text(value)
    if isinstance(value, dict):
        return {key: _in_xml(item) for key, item in value.items()}
    return [_in_xml(item) for item in value] if isinstance(value, list) else value


def picture(chart: Any, name: str, form: str = "svg") -> bytes:
    """Return a chart as the content of an `svg` or `png` file; see `svg` and `png`."""
    return png(chart) if form == "png" else svg(chart.to_dict(context=_AS_IT_IS), name).encode()


def data(table: pd.DataFrame | list[dict[str, Any]] | dict[str, list[float]]) -> alt.Data:
    """Return the rows of a table, or of what makes one, for Vega, with null for NaN and infinities."""
    return alt.Data(values=json.loads(str(pd.DataFrame(table).to_json(orient="records"))))


def with_n(table: pd.DataFrame) -> pd.DataFrame:
    """Add the number of facts to each relation's name, as `capital (n = 12)`."""
    n_facts = {name: max(rows["n_facts"]) for name, rows in table.groupby("relation", sort=False)}
    names = {name: f"{visible(str(name))} (n = {n:,})" for name, n in n_facts.items()}
    return table.assign(relation=table["relation"].map(names))


def with_labels(rows: pd.DataFrame, at: tuple[Any, Any], strength: pd.Series, width: float) -> pd.DataFrame:
    """Keep the labels of the strongest points that have room between the points and the other labels.

    Args:
        rows: a row for each point, numbered from 0, with `label`.
        at: place of each point in pixels from the left and from the top.
        strength: which points to label first; NaN for those without labels.
        width: of the chart in pixels.

    Returns:
        The rows with the labels left; `at_right`: whether a label is on the left of its point; and `shift`:
        pixels from the point's height to the label's.
    """
    x, y = (np.asarray(place, float) for place in at)
    labels, at_right, shifts = [""] * len(rows), x >= width / 2, np.zeros(len(rows))
    taken: list[tuple[float, float, float]] = []  # left and right end and height of each label
    for row in strength.astype(float).dropna().nlargest(2 * _MOST_LABELS).index:
        length = _LABEL_SIZE * sum(map(letter_width, rows["label"][row]))
        for side, shift in product((at_right[row], not at_right[row]), (0, -8, 8)):
            left = x[row] - 8 - length if side else x[row] + 8
            right, height = left + length, y[row] + shift
            covered = (x > left - 4) & (x < right + 4) & (abs(y - height) < 8)
            hidden = any(left < end and start < right and abs(height - at) < 13 for start, end, at in taken)
            if (
                left >= 0
                and right <= max(width, _NARROWEST)
                and not covered.any()
                and not hidden
                and len(taken) < _MOST_LABELS
            ):
                taken.append((float(left), float(right), float(height)))
                labels[row], at_right[row], shifts[row] = rows["label"][row], side, shift
                break
    return rows.assign(label=labels, at_right=at_right, shift=shifts)


def point_labels(base: alt.Chart, value: str, pixel: float) -> list[alt.Chart]:
    """Draw the labels that `with_labels` left, beside the points of a column of values upwards.

    Args:
        base: the chart of the points, with their axes.
        value: name of the column.
        pixel: how much of the value one pixel is.
    """
    y = base.encoding.y.copy()
    y.shorthand = "height:Q"
    return [
        base.transform_filter(f"datum.label && {side}")
        .transform_calculate(height=f"datum.{value} - {pixel} * datum.shift")
        .mark_text(align=align, dx=dx, baseline="middle", color=TEXT, fontSize=_LABEL_SIZE, aria=False)
        .encode(text="label:N", y=y)
        for side, align, dx in (("!datum.at_right", "left", 8), ("datum.at_right", "right", -8))
    ]


def heatmap(
    table: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    *,
    size: tuple[float, float],
    words: dict[str, str],
    **options: Any,
) -> alt.LayerChart:
    """Draw cells: their colour is the sign, their opacity the magnitude of a value.

    In heatmaps with both signs and without numbers, cells below 0 are struck through.

    Args:
        table: a row for each cell.
        x: column across, in the order of the rows.
        y: column downwards, in the order of the rows.
        value: column of the values.
        size: width and height of a cell in pixels.
        words: titles of the axes and the legend by column; an axis without one has none.
        options: `marked`, a boolean column of dotted cells; `written`, a number format for the cells' text;
            `largest`, the magnitude of solid cells; `tooltip`, a cell's tooltip.
    """
    reach = options.get("largest") or largest(table[value].to_numpy(float)) or 1.0
    columns, rows = list(dict.fromkeys(table[x])), list(dict.fromkeys(table[y]))
    signed, faint = bool((table[value] < 0).any()), "#f4f3ef" if "written" in options else ""
    if not faint:  # invisible cells would only make the file large
        seen = table[value].abs().between(0.005 * reach, np.inf, inclusive="neither")
        marked = [options["marked"]] if "marked" in options else []
        table = table.loc[seen | table[marked].any(axis=1)]
    across, down = alt.Scale(domain=columns), alt.Scale(domain=rows)
    base = alt.Chart(data(table)).encode(
        x=alt.X(f"{x}:O", sort=columns, scale=across, title=words.get(x), axis=_axis(columns, size[0])),
        y=alt.Y(f"{y}:O", sort=rows, scale=down, title=words.get(y)),
    )
    color = alt.Color(f"{value}:Q", title=words[value], scale=_scale(reach, signed, faint))
    cells = base.mark_rect(aria=False).encode(color=color)
    layers = [cells.encode(tooltip=options["tooltip"]) if "tooltip" in options else cells]
    if signed and not faint:
        layers += _strikes(base, f"datum['{value}'] < {-QUIET * reach}", min(size))
    if "marked" in options:
        size_of_dot, line = min(size) * 1.8, min(size) / 14
        dot = base.mark_circle(
            size=size_of_dot, color=DARK, stroke="white", strokeWidth=line, opacity=1, aria=False
        )
        layers.append(dot.transform_filter(f"datum.{options['marked']}"))
    if "written" in options:
        solid = f"abs(datum['{value}']) > {0.55 * reach}"
        text = base.mark_text(fontSize=11, aria=False).encode(
            text=alt.Text(f"{value}:Q", format=options["written"]),
            color=alt.condition(solid, alt.value("white"), alt.value(DARK)),
        )
        layers.append(text.transform_filter(f"isValid(datum['{value}'])"))
    return alt.layer(*layers).properties(width=size[0] * len(columns), height=size[1] * len(rows))


def dots(
    table: pd.DataFrame,
    x: str,
    y: str,
    title: str,
    *,
    width: int = 260,
    by: str = "",
    colors: dict[str, str] | None = None,
) -> alt.LayerChart:
    """Draw means with their intervals, a row for each value of a column.

    Args:
        table: with the columns `x`, `x_low` and `x_high`.
        x: column of the means.
        y: column downwards, in the order of the rows.
        title: title of the axis.
        width: width in pixels.
        by: column of the colours, shapes and places in a row; empty for none.
        colors: colours of the values of `by`, in the order of the legend.
    """
    rows = list(dict.fromkeys(table[y]))
    base = alt.Chart(data(table)).encode(
        y=alt.Y(f"{y}:N", sort=rows, title=None, scale=alt.Scale(domain=rows))
    )
    names = list(colors or {})
    # Alike but for what they encode, so that Vega makes one legend of them.
    legend: dict[str, Any] = {"sort": names, "title": None}
    if by:
        scale = alt.Scale(domain=names, range=list((colors or {}).values()))
        base = base.encode(color=alt.Color(f"{by}:N", scale=scale, **legend))
    else:
        base = base.encode(color=alt.value(RAISES))
    if table[y].duplicated().any():
        base = base.encode(yOffset=alt.YOffset(f"{by}:N", sort=names))
    horizontal = alt.X(f"{x}:Q", title=title, scale=alt.Scale(zero=True))
    lines = base.mark_rule(strokeWidth=2, aria=False).encode(
        x=alt.X(f"{x}_low:Q", title=title), x2=f"{x}_high:Q"
    )
    points = base.mark_point(filled=True, opacity=1, size=56, aria=False).encode(x=horizontal)
    if by:
        points = points.encode(shape=alt.Shape(f"{by}:N", scale=alt.Scale(domain=names), **legend))
    step = 24 if len(names) < 3 else 10 * len(names)
    # Where no mean has an interval Vega would draw rules from nowhere.
    with_ends = lines.transform_filter(f"isValid(datum['{x}_low']) && isValid(datum['{x}_high'])")
    return alt.layer(with_ends, points).properties(width=width, height=step * len(rows))


def layer_step(n_layers: int) -> float:
    """Return the pixels from one layer to the next, equal in all charts of a model."""
    return float(min(24, max(7, 720 // n_layers)))


def layer_axis(n_layers: int) -> alt.Axis:
    """Return an axis of layers with as many numbers as fit."""
    return _axis(range(n_layers), layer_step(n_layers), grid=False)


def panel_title(text: str) -> alt.TitleParams:
    """Return the title of one of several panels."""
    return alt.TitleParams(text, fontSize=11, fontWeight="normal", offset=4)


def signs(effect: str) -> alt.Color:
    """Return the colours of a column of `raises` and `lowers`, without a legend."""
    scale = alt.Scale(domain=["raises", "lowers"], range=[RAISES, LOWERS])
    return alt.Color(f"{effect}:N", scale=scale, legend=None)


def shapes(column: str, names: dict[str, str], legend: alt.Legend) -> alt.Shape:
    """Return the shapes of the values of a column, by value."""
    scale = alt.Scale(domain=list(names), range=list(names.values()))
    return alt.Shape(f"{column}:N", title=None, legend=legend, scale=scale)


def cell_width(n_columns: int) -> float:
    """Return the width of cells that fill half a page, 4 to 14 pixels."""
    return min(14.0, max(4.0, 420 / max(n_columns, 1)))


def abreast(panels: list[Any], *, resolve: bool = False) -> Any:
    """Place panels side by side; the first names the rows. With `resolve` each has its own colours."""
    if not panels:
        return nothing()
    chart = alt.hconcat(panels[0], *map(without_labels, panels[1:]))
    return chart.resolve_scale(color="independent") if resolve else chart


def without_labels(chart: Any) -> Any:
    """Remove the labels of the rows, which the panel to the left has."""
    layers = chart.layer if isinstance(chart, alt.LayerChart) else [chart]
    for layer in layers:
        layer.encoding.y.axis = alt.Axis(labels=False, title=None)
    return chart


def nothing(words: str = "nothing was measured") -> Any:
    """Draw words in place of the chart of an empty table."""
    text = alt.Chart(alt.Data(values=[{"text": words}])).mark_text(color=TEXT, align="left")
    return text.encode(text="text:N", x=alt.value(0), y=alt.value(10)).properties(width=200, height=20)


def _strikes(base: alt.Chart, where: str, length: float) -> list[alt.Chart]:
    """Draw strokes through some cells, dark with a light rim that stands out from any colour."""
    shape = base.transform_filter(where)
    size = (0.6 * length) ** 2
    return [
        shape.mark_point(
            shape=_STROKE, size=size, stroke=color, strokeWidth=width, opacity=1, filled=False, aria=False
        )
        for color, width in (("white", 2.2), (DARK, 1.0))
    ]


def _axis(columns: Sequence[Any], width: float, **options: Any) -> alt.Axis:
    """Return an axis with as many labels as fit."""
    if not all(isinstance(column, int) for column in columns):
        return alt.Axis(labelAngle=-40, **options)
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100) if n * width >= 24 or n == 100)
    return alt.Axis(values=[column for column in columns if column % every == 0], labelAngle=0, **options)


def _scale(reach: float, signed: bool, faint: str) -> alt.Scale:
    """Return a scale from the lowering to the raising colour, transparent (or `faint`, under text) at 0."""
    lowers, raises = faint or f"{LOWERS}00", faint or f"{RAISES}00"
    if signed:
        domain, colors = (
            [-reach, -1e-9 * reach, 1e-9 * reach, reach],
            [LOWERS, lowers, raises, RAISES],
        )
    else:
        domain, colors = [0, reach], [raises, RAISES]
    return alt.Scale(domain=domain, range=colors, clamp=True, interpolate="rgb")
