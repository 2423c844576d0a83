"""Charts of an attribution by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from mnemoscope._io import CHART_FORMS, check_folder, write_into
from mnemoscope.errors import OptionError
from mnemoscope.report.charts import (
    apply_theme,
    cell_width,
    data,
    heatmap,
    layer_axis,
    layer_step,
    panel_title,
    picture,
    point_labels,
    shapes,
    signs,
    with_labels,
)
from mnemoscope.report.readable import readable
from mnemoscope.report.text import Effects, about, effect_title, value_name
from mnemoscope.report.theme import CONTROL, KINDS, LOWERS, RAISES, TEXT, Depth, ends_of, strongest_groups
from mnemoscope.report.tokens import at_position, plain_token, token_list
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import records
from mnemoscope.results.parts import row_name

_PANEL = 120
_PATH_SHAPES = {"embeddings": "triangle-up", "attention": "diamond", "FFN": "circle"}
_EFFECT = alt.Tooltip("effect:Q", format="+.4f")


def layers(result: Attribution) -> Any:
    """Draw bars of attention (above) and FFN (below) of each layer, on one scale in nats.

    The bars show the effect that orders the result's lists. Lowering bars point down and are hollow.
    """
    depth = Depth.of(result, Effects.of(result).order)
    ends = alt.Scale(domain=list(ends_of(depth.block_scores())))
    panels = [
        _bars(depth.blocks[kind], name, ends, last=kind == list(KINDS)[-1]) for kind, name in KINDS.items()
    ]
    panels[0] = panels[0].properties(title=panel_title(effect_title(result)))
    return alt.vconcat(*panels, spacing=10)


def _bars(values: np.ndarray, name: str, ends: alt.Scale, *, last: bool) -> alt.LayerChart:
    n_layers = len(values)
    rows = pd.DataFrame({"layer": range(n_layers), "kind": name, "effect": values})
    base = alt.Chart(data(rows.loc[np.isfinite(values)])).encode(
        x=alt.X(
            "layer:O",
            scale=alt.Scale(domain=list(range(n_layers))),
            axis=layer_axis(n_layers) if last else None,
        ),
        y=alt.Y("effect:Q", title=name, scale=ends, axis=alt.Axis(minExtent=44, tickCount=4)),
    )
    raises = "datum.effect >= 0"
    bars = base.mark_bar(aria=False, strokeWidth=1).encode(
        color=alt.condition(raises, alt.value(RAISES), alt.value(LOWERS)),
        stroke=alt.condition(raises, alt.value(RAISES), alt.value(LOWERS)),
        fillOpacity=alt.condition(raises, alt.value(1), alt.value(0.35)),
        tooltip=["layer:O", "kind:N", _EFFECT],
    )
    zero = alt.Chart(data({"zero": [0]})).mark_rule(color=TEXT, aria=False)
    return alt.layer(bars, zero.encode(y=alt.Y("zero:Q", title=name, scale=ends))).properties(
        width=layer_step(n_layers) * n_layers, height=_PANEL
    )


def path(result: Attribution) -> Any:
    """Draw the value read out after the embeddings and after each attention and FFN, in nats.

    The direct scores of the layers add up to it (docs/method.md#telescoping).

    Raises:
        OptionError: attention and FFN run in parallel in the model, so their scores do not add up.
    """
    if result.telescoping_error is None:
        raise OptionError(
            "attention and FFN of a layer read the same stream in this model, so their scores do not add up "
            "along the depth; draw the chart of the layers"
        )
    depth = Depth.of(result, "direct")
    rows, name = _running(result.value_of_embeddings, depth), f"{value_name(result.targets)} (nats)"
    y = alt.Y("value:Q", title=name, axis=alt.Axis(minExtent=44))
    base = alt.Chart(data(rows)).encode(x=_places(depth.n_layers, 1), y=y)
    final = alt.Chart(data({"value": [result.targets.value]}))
    legend = alt.Legend(symbolFillColor=RAISES, symbolStrokeColor=RAISES, orient="top")
    return alt.layer(
        final.mark_rule(color=CONTROL, strokeDash=[4, 3], aria=False).encode(y=y),
        base.mark_line(color=RAISES, strokeWidth=1.5, aria=False),
        base.mark_point(filled=True, color=RAISES, opacity=1, size=44, aria=False).encode(
            shape=shapes("after", _PATH_SHAPES, legend),
            tooltip=[
                alt.Tooltip("after:N"),
                alt.Tooltip("layer:O"),
                alt.Tooltip("value:Q", title=name, format=".4f"),
                alt.Tooltip("added:Q", title="added (nats)", format="+.4f"),
            ],
        ),
    ).properties(width=layer_step(depth.n_layers) * (depth.n_layers + 1), height=2 * _PANEL)


def _places(n_layers: int, room: float) -> alt.X:
    """Return the axis of places along the depth, with room for so many layers beside the first and last."""
    scale = alt.Scale(domain=[-room, n_layers - 1 + room], nice=False, zero=False)
    return alt.X("place:Q", title="layer", scale=scale, axis=layer_axis(n_layers))


def _running(start: float, depth: Depth) -> pd.DataFrame:
    """Add up the blocks' scores; the FFN of a layer stands half a layer behind its attention."""
    value = start
    rows: list[tuple[Any, ...]] = [(-0.5, None, "embeddings", start, None)]
    for layer in range(depth.n_layers):
        for behind, (kind, name) in zip((0.0, 0.5), KINDS.items(), strict=True):
            added = float(depth.blocks[kind][layer])
            if not math.isnan(added):
                value += added
                rows.append((layer + behind, layer, name, value, added))
    return pd.DataFrame(rows, columns=["place", "layer", "after", "value", "added"])


MOST_HEADS = 24
MOST_POSITIONS = 40
_CELL = 18.0


def heads(result: Attribution) -> Any:
    """Draw a cell for each head, layers from left to right; cells of lowering heads are struck through.

    The cells show the effect that orders the result's lists, in nats.
    """
    grid = Depth.of(result, Effects.of(result).order).heads
    n_layers, n_heads = grid.shape
    layer, head = np.indices(grid.shape)
    rows = pd.DataFrame({"layer": layer.ravel(), "head": head.ravel(), "effect": grid.ravel()})
    words = {"layer": "layer", "head": "head", "effect": effect_title(result)}
    size = (layer_step(n_layers), cell_width(n_heads))
    tooltip = ["layer:O", "head:O", _EFFECT]
    return heatmap(rows, "layer", "head", "effect", size=size, words=words, tooltip=tooltip)


def positions(result: Attribution) -> Any:
    """Draw the effects of the strongest heads from each token, in nats; tokens downwards, with positions.

    Only heads at positions of the result's lists are drawn. Of a long prompt the tokens with the most effect
    are shown, in the order of the prompt.
    """
    both = pd.concat([result.heads_by_position, result.suppressing_heads_by_position], ignore_index=True)
    both["effect"] = both[Effects.of(result).order].astype(float)
    place = ["layer", "head", "position"]
    rows = both.drop_duplicates(place).loc[:, [*place, "effect", "attention"]]
    shown_heads = strongest_groups(rows, "effect", ["layer", "head"], MOST_HEADS)
    shown = strongest_groups(rows, "effect", ["position"], MOST_POSITIONS)
    if len(result.tokens) <= MOST_POSITIONS:
        shown = pd.DataFrame({"position": range(len(result.tokens))})
    table = shown_heads.merge(shown, how="cross").merge(rows, how="left", on=place)
    table = table.sort_values(place, kind="stable")
    table["token"] = [at_position(position, result.tokens[position]) for position in table["position"]]
    table["head"] = table["layer"].astype(str) + "." + table["head"].astype(str)
    words = {
        "head": _extent("head", len(shown_heads), len(rows[["layer", "head"]].drop_duplicates())),
        "token": _extent("token", len(shown), len(result.tokens)),
        "effect": effect_title(result),
    }
    tooltip = ["head:N", "token:N", _EFFECT, alt.Tooltip("attention:Q", format=".1%")]
    cells = table.loc[:, ["head", "token", "effect", "attention"]]
    return heatmap(cells, "head", "token", "effect", size=(_CELL, _CELL), words=words, tooltip=tooltip)


def _extent(what: str, n_shown: int, n_all: int) -> str:
    return what if n_shown == n_all else f"{what} (the strongest {n_shown} of {n_all:,})"


_HEIGHT = 300
_MOST_TOKENS = 8
_SHAPES = {"FFN": "circle", "attention": "diamond"}
_BESIDE = {"FFN": -0.2, "attention": 0.2}  # of a layer's width, so that the kinds do not hide each other


def neurons(result: Attribution) -> Any:
    """Draw a point for each neuron of the result's lists: layer across, effect in nats upwards.

    FFN neurons are round; attention neurons at positions are diamonds. The strongest have labels with the
    token that they promote most or whose value they carry.
    """
    n_layers = Depth.of(result).n_layers
    rows = _neuron_rows(result)
    low, high = ends_of(rows["effect"].to_numpy())
    room = 0.08 * (high - low) or 1.0
    low, high = low - room, high + room
    width = layer_step(n_layers) * n_layers
    pixel = (high - low) / _HEIGHT
    at = (rows["place"] + 0.5) / n_layers * width, (high - rows["effect"]) / pixel
    rows = with_labels(rows, at, rows["effect"].abs(), width)
    y = alt.Y(
        "effect:Q",
        title=effect_title(result),
        scale=alt.Scale(domain=[low, high], nice=False),
        axis=alt.Axis(minExtent=44),
    )
    base = alt.Chart(data(rows)).encode(x=_places(n_layers, 0.5), y=y)
    points = base.mark_point(filled=True, color=TEXT, size=46, opacity=0.75, aria=False).encode(
        shape=shapes("kind", _SHAPES, alt.Legend(orient="top")),
        color=signs("does"),
        tooltip=[
            "kind:N",
            alt.Tooltip("name:N", title="neuron"),
            _EFFECT,
            alt.Tooltip("coefficient:Q", format=".4g"),
            "promotes:N",
            "demotes:N",
            "token:N",
        ],
    )
    zero = alt.Chart(data({"effect": [0]})).mark_rule(color=TEXT, aria=False).encode(y=y)
    return alt.layer(zero, points, *point_labels(base, "effect", pixel)).properties(
        width=width, height=_HEIGHT
    )


def _neuron_rows(result: Attribution) -> pd.DataFrame:
    """Return the neurons of all lists, each once; `label` is their name with a token."""
    order = Effects.of(result).order
    tables = {
        "FFN": pd.concat([result.ffn_neurons, result.suppressing_ffn_neurons]),
        "attention": pd.concat([result.attention_neurons, result.suppressing_attention_neurons]),
    }
    rows = []
    for kind, table in tables.items():
        for row in records(table):
            shown = {
                **dict.fromkeys(("promotes", "demotes", "token"), "–"),
                "kind": kind,
                "name": row_name(row),
                "place": row["layer"] + _BESIDE[kind],
                "effect": row[order],
                "does": "raises" if row[order] >= 0 else "lowers",
                "coefficient": row["coefficient"],
            }
            if kind == "FFN":
                shown["label"] = f"{shown['name']} {plain_token(row['promotes'][0])}"
                shown |= {words: token_list(row[words], _MOST_TOKENS) for words in ("promotes", "demotes")}
            else:
                shown["label"] = f"{shown['name']} at {plain_token(row['token'])}"
                shown["token"] = at_position(row["position"], row["token"])
            rows.append(shown)
    columns = ["kind", "place", "effect", "does", "coefficient", "name", "promotes", "demotes", "token"]
    found = pd.DataFrame(rows, columns=[*columns, "label"]).astype({"effect": float})
    found = found.loc[np.isfinite(found["effect"])].drop_duplicates(["kind", "name", "token"])
    return found.reset_index(drop=True)


@dataclass(frozen=True)
class Figure:
    """A chart of an attribution with its words.

    Attributes:
        title: the heading.
        words: description of the chart, also for screen readers.
        draw: draws the chart.
    """

    title: str
    words: str
    draw: Callable[[Attribution], Any]

    @property
    def name(self) -> str:
        """Name of the chart and of its file."""
        return self.draw.__name__

    def chart(self, result: Attribution) -> Any:
        """Draw the chart without a title, for a page with headings."""
        return apply_theme(self._described(result))

    def alone(self, result: Attribution) -> Any:
        """Draw the chart with its title, the prompt and the target."""
        return apply_theme(self._described(result), self.title, about(result.prompt, result.targets))

    def _described(self, result: Attribution) -> Any:
        return self.draw(readable(result)).properties(description=f"{self.title}. {self.words}")


_FIGURES = (
    Figure(
        "Attention and FFN along the depth",
        "A bar for the attention and for the FFN of each layer, the first layer on the left; what raises the "
        "target stands on the line, what lowers it hangs from it and is hollow.",
        layers,
    ),
    Figure(
        "From the embeddings to the prediction",
        "Logit lens: the target in the stream after the embeddings and after each attention and FFN output; "
        "the broken line is the model's own prediction.",
        path,
    ),
    Figure(
        "Heads",
        "A cell for each head, layers from left to right and heads downwards; the stronger the head the more "
        "solid its cell; those that lower the target are struck through.",
        heads,
    ),
    Figure(
        "Heads over the tokens",
        "Effect of the strongest heads (left to right) from each token of the prompt (downwards, with its "
        "position). Cells that lower the target are struck through; cells outside the lists are empty.",
        positions,
    ),
    Figure(
        "Neurons",
        "A point for each neuron of the lists, its layer across and its effect upwards; FFN neurons are "
        "circles, attention neurons diamonds; the strongest have their names, with the first token that an "
        "FFN neuron promotes or the token whose value an attention neuron carries.",
        neurons,
    ),
)


def figures(result: Attribution) -> list[Figure]:
    """Return the figures that the result has data for, in the order of a report."""
    there = {
        "path": result.telescoping_error is not None,
        "positions": len(result.heads_by_position) + len(result.suppressing_heads_by_position),
    }
    return [figure for figure in _FIGURES if there.get(figure.name, True)]


def charts(result: Attribution) -> dict[str, Any]:
    """Return an Altair chart for each figure, by name."""
    return {figure.name: figure.alone(result) for figure in figures(result)}


def save_charts(result: Attribution, folder: Path, form: str = "svg") -> Path:
    """Write each chart to a file of its name, without a browser.

    Returns:
        The folder, which is created if needed.

    Raises:
        OptionError: `form` is neither `"svg"` nor `"png"`.
        OutputError: the folder is refused by `check_folder`, or the disk is full.
    """
    if form not in CHART_FORMS:
        raise OptionError(f"there is no form {form!r} of charts; give {' or '.join(CHART_FORMS)}")
    folder = check_folder(folder)
    contents = {f"{name}.{form}": picture(chart, name, form) for name, chart in charts(result).items()}
    return write_into(folder, contents)
