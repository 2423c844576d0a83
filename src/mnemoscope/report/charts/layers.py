"""The layers: what attention and FFN of each give, and how the value grows along them."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from mnemoscope.errors import OptionError
from mnemoscope.report.charts.theme import CONTROL, TEXT, data, layer_axis, layer_step, panel_title
from mnemoscope.report.charts.words import effect_title
from mnemoscope.report.terminal.depth import KINDS, LOWERS, RAISES, Depth
from mnemoscope.report.text import Effects, value_name
from mnemoscope.results.attribution import Attribution

_PANEL = 120
_SHAPES = {"embeddings": "triangle-up", "attention": "diamond", "FFN": "circle"}


def layers(result: Attribution) -> Any:
    """Bars of attention (above) and FFN (below) of each layer, on one scale in nats.

    They show the effect that the result's lists are ordered by. What lowers points down and is hollow.
    """
    depth = Depth.of(result, Effects.of(result).order)
    values = depth.block_scores()
    finite = values[np.isfinite(values)]
    ends = alt.Scale(domain=[float(finite.min(initial=0.0)), float(finite.max(initial=0.0))])
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
        tooltip=["layer:O", "kind:N", alt.Tooltip("effect:Q", format="+.4f")],
    )
    zero = alt.Chart(data(pd.DataFrame({"zero": [0]}))).mark_rule(color=TEXT, aria=False)
    return alt.layer(bars, zero.encode(y=alt.Y("zero:Q", title=name, scale=ends))).properties(
        width=layer_step(n_layers) * n_layers, height=_PANEL
    )


def path(result: Attribution) -> Any:
    """The value read out after the embeddings and after each attention and FFN, nats.

    The direct scores of the layers add up to it (docs/method.md#telescoping).

    Raises:
        OptionError: attention and FFN stand side by side in the model, so their scores do not add up.
    """
    if result.telescoping_error is None:
        raise OptionError(
            "attention and FFN of a layer read the same stream in this model, so their scores do not add up "
            "along the depth; draw the chart of the layers"
        )
    depth = Depth.of(result, "score")
    rows, name = _along(result.value_of_embeddings, depth), f"{value_name(result.targets)} (nats)"
    scale = alt.Scale(domain=[-1, depth.n_layers], nice=False, zero=False)
    y = alt.Y("value:Q", title=name, axis=alt.Axis(minExtent=44))
    base = alt.Chart(data(rows)).encode(
        x=alt.X("place:Q", scale=scale, axis=layer_axis(depth.n_layers), title="layer"), y=y
    )
    final = alt.Chart(data(pd.DataFrame({"value": [result.targets.value]})))
    legend = alt.Legend(symbolFillColor=RAISES, symbolStrokeColor=RAISES, orient="top")
    return alt.layer(
        final.mark_rule(color=CONTROL, strokeDash=[4, 3], aria=False).encode(y=y),
        base.mark_line(color=RAISES, strokeWidth=1.5, aria=False),
        base.mark_point(filled=True, color=RAISES, opacity=1, size=44, aria=False).encode(
            shape=alt.Shape(
                "after:N",
                title=None,
                legend=legend,
                scale=alt.Scale(domain=list(_SHAPES), range=list(_SHAPES.values())),
            ),
            tooltip=[
                alt.Tooltip("after:N"),
                alt.Tooltip("layer:O"),
                alt.Tooltip("value:Q", title=name, format=".4f"),
                alt.Tooltip("added:Q", title="added (nats)", format="+.4f"),
            ],
        ),
    ).properties(width=layer_step(depth.n_layers) * (depth.n_layers + 1), height=2 * _PANEL)


def _along(start: float, depth: Depth) -> pd.DataFrame:
    """The value after each part; FFN of a layer stands half a layer behind its attention."""
    value = start
    rows: list[dict[str, Any]] = [{"place": -0.5, "layer": None, "after": "embeddings", "value": start}]
    for layer in range(depth.n_layers):
        for behind, (kind, name) in zip((0.0, 0.5), KINDS.items(), strict=True):
            added = float(depth.blocks[kind][layer])
            if math.isnan(added):
                continue
            value += added
            rows.append(
                {"place": layer + behind, "layer": layer, "after": name, "value": value, "added": added}
            )
    return pd.DataFrame(rows, columns=["place", "layer", "after", "value", "added"])
