"""The neurons that raise and lower the target most, by layer."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from mnemoscope.attribution.result import Attribution, records
from mnemoscope.view.charts.look import TEXT, data, layer_axis, layer_step, signs
from mnemoscope.view.charts.words import at_position, effect_title, plain_token, token_list
from mnemoscope.view.depth import Depth
from mnemoscope.view.effects import Effects
from mnemoscope.view.label_places import label_places

_HEIGHT = 300
_MOST_TOKENS = 8
_LABELLED = 8
_SHAPES = {"FFN": "circle", "attention": "diamond"}
_BESIDE = {"FFN": -0.2, "attention": 0.2}  # of a layer's width, so that the kinds do not hide each other


def neurons(result: Attribution) -> Any:
    """A point for each neuron of the result's lists: layer across, effect in nats upwards.

    FFN neurons are round; attention neurons at positions are diamonds. The strongest are named, with the
    token that they promote most or whose value they carry.
    """
    rows = _rows(result)
    n_layers = Depth.of(result, Effects.of(result).order).n_layers
    width = layer_step(n_layers) * n_layers
    lowest, highest = _padded(rows["effect"])
    x = alt.X(
        "place:Q",
        title="layer",
        scale=alt.Scale(domain=[-0.5, n_layers - 0.5], nice=False, zero=False),
        axis=layer_axis(n_layers),
    )
    y = alt.Y(
        "effect:Q",
        title=effect_title(result),
        scale=alt.Scale(domain=[lowest, highest], nice=False),
        axis=alt.Axis(minExtent=44),
    )
    base = alt.Chart(data(rows)).encode(x=x, y=y)
    shape = alt.Shape(
        "kind:N",
        title=None,
        legend=alt.Legend(orient="top"),
        scale=alt.Scale(domain=list(_SHAPES), range=list(_SHAPES.values())),
    )
    points = base.mark_point(filled=True, color=TEXT, size=46, opacity=0.75, aria=False).encode(
        shape=shape,
        color=signs("does"),
        tooltip=[
            "kind:N",
            alt.Tooltip("name:N", title="neuron"),
            alt.Tooltip("effect:Q", format="+.4f"),
            alt.Tooltip("coefficient:Q", format=".4g"),
            "promotes:N",
            "demotes:N",
            "token:N",
        ],
    )
    zero = alt.Chart(data(pd.DataFrame({"effect": [0]}))).mark_rule(color=TEXT, aria=False).encode(y=y)
    names = _labels(rows, (width, _HEIGHT), (n_layers, lowest, highest), x, y)
    return alt.layer(zero, points, *names).properties(width=width, height=_HEIGHT)


def _rows(result: Attribution) -> pd.DataFrame:
    order = Effects.of(result).order
    ffn = pd.concat([result.ffn_neurons, result.suppressing_ffn_neurons])
    attention = pd.concat([result.attention_neurons, result.suppressing_attention_neurons])
    rows = [
        {
            **_common("FFN", row, order),
            "name": f"{row['layer']}.{row['neuron']}",
            "promotes": token_list(row["promotes"], _MOST_TOKENS),
            "demotes": token_list(row["demotes"], _MOST_TOKENS),
            "label": f"{row['layer']}.{row['neuron']} {plain_token(row['promotes'][0])}",
        }
        for row in records(ffn, tuple(ffn))
    ] + [
        {
            **_common("attention", row, order),
            "name": f"{row['layer']}.{row['head']}.{row['dim']}",
            "token": at_position(row["position"], row["token"]),
            "label": f"{row['layer']}.{row['head']}.{row['dim']} at {plain_token(row['token'])}",
        }
        for row in records(attention, tuple(attention))
    ]
    columns = [
        "kind",
        "place",
        "effect",
        "does",
        "coefficient",
        "name",
        "promotes",
        "demotes",
        "token",
        "label",
    ]
    table = pd.DataFrame(rows, columns=columns).astype({"effect": float})
    finite = table.loc[np.isfinite(table["effect"])]
    return finite.fillna("–").drop_duplicates(["kind", "name", "token"])


def _common(kind: str, row: dict[str, Any], order: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "place": row["layer"] + _BESIDE[kind],
        "effect": row[order],
        "does": "raises" if row[order] >= 0 else "lowers",
        "coefficient": row["coefficient"],
    }


def _padded(effects: pd.Series) -> tuple[float, float]:
    """From the lowest to the highest, zero included, with room for labels."""
    low, high = min(0.0, float(effects.min())), max(0.0, float(effects.max()))
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _labels(
    rows: pd.DataFrame,
    size: tuple[float, float],
    domain: tuple[int, float, float],
    x: alt.X,
    y: alt.Y,
) -> list[alt.Chart]:
    """Names beside the strongest points, and lines to those that stand far from them."""
    strongest = rows.loc[rows["effect"].abs().nlargest(_LABELLED).index]
    (width, height), (n_layers, lowest, highest) = size, domain
    step = width / n_layers
    points = [
        ((place + 0.5) * step, height * (highest - effect) / (highest - lowest))
        for place, effect in zip(strongest["place"], strongest["effect"], strict=True)
    ]
    places = label_places(points, list(strongest["label"]), width, height)
    placed = strongest[["place", "effect", "label"]].assign(
        align=[place.align for place in places],
        is_far=[place.is_far for place in places],
        label_place=[place.x / step - 0.5 for place in places],
        label_effect=[highest - place.y / height * (highest - lowest) for place in places],
    )
    lines = alt.Chart(data(placed.loc[placed["is_far"]])).mark_rule(color=TEXT, strokeWidth=0.75, aria=False)
    anchors = placed.assign(place=placed["label_place"], effect=placed["label_effect"])
    texts = [
        alt.Chart(data(anchors.loc[anchors["align"] == align]))
        .mark_text(align=align, baseline="middle", color=TEXT, fontSize=11, aria=False)
        .encode(x=x, y=y, text="label:N")
        for align in ("left", "center", "right")
    ]
    return [lines.encode(x=x, y=y, x2="label_place:Q", y2="label_effect:Q"), *texts]
