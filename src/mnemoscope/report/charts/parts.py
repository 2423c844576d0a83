"""Charts of heads and neurons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from mnemoscope.report.charts.theme import TEXT, cell_width, data, heatmap, layer_axis, layer_step, signs
from mnemoscope.report.charts.words import at_position, effect_title, plain_token, token_list
from mnemoscope.report.terminal.depth import Depth
from mnemoscope.report.text import Effects
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import records

MOST_HEADS = 24
MOST_TOKENS = 40
_CELL = 18.0
_EFFECT = alt.Tooltip("effect:Q", format="+.4f")


def heads(result: Attribution) -> Any:
    """A cell for each head, layers from left to right; what lowers is struck through.

    It shows the effect that the result's lists are ordered by, in nats.
    """
    grid = Depth.of(result, Effects.of(result).order).heads
    n_layers, n_heads = grid.shape
    layer, head = np.indices(grid.shape)
    rows = pd.DataFrame({"layer": layer.ravel(), "head": head.ravel(), "effect": grid.ravel()})
    words = {"layer": "layer", "head": "head", "effect": effect_title(result)}
    size = (layer_step(n_layers), cell_width(n_heads))
    return heatmap(
        rows, "layer", "head", "effect", size=size, words=words, tooltip=["layer:O", "head:O", _EFFECT]
    )


def positions(result: Attribution) -> Any:
    """What the strongest heads bring from each token, nats; tokens downwards, with their positions.

    Only heads at positions that are in the result's lists are drawn. Of many tokens those from which the
    most is brought are there, still in the order of the prompt.
    """
    rows = _brought(result)
    columns = _strongest(rows, ["layer", "head"], MOST_HEADS)
    shown = _strongest(rows, ["position"], MOST_TOKENS)
    if len(result.tokens) <= MOST_TOKENS:
        shown = pd.DataFrame({"position": range(len(result.tokens))})
    table = columns.merge(shown, how="cross").merge(rows, how="left", on=["layer", "head", "position"])
    table = table.sort_values(["layer", "head", "position"], kind="stable")
    labels = [at_position(position, result.tokens[position]) for position in table["position"]]
    table["head"] = table["layer"].astype(str) + "." + table["head"].astype(str)
    table["token"] = labels
    words = {
        "head": _extent("head", len(columns), len(rows[["layer", "head"]].drop_duplicates())),
        "token": _extent("token", len(shown), len(result.tokens)),
        "effect": effect_title(result),
    }
    tooltip = ["head:N", "token:N", _EFFECT, alt.Tooltip("attention:Q", format=".1%")]
    cells = table.loc[:, ["head", "token", "effect", "attention"]]
    return heatmap(cells, "head", "token", "effect", size=(_CELL, _CELL), words=words, tooltip=tooltip)


def _brought(result: Attribution) -> pd.DataFrame:
    """The heads at positions of both lists; those in both once."""
    both = pd.concat([result.positions, result.suppressing_positions], ignore_index=True)
    both["effect"] = both[Effects.of(result).order].astype(float)
    columns = ["layer", "head", "position", "effect", "attention"]
    return both.drop_duplicates(["layer", "head", "position"]).loc[:, columns]


def _strongest(rows: pd.DataFrame, by: list[str], most: int) -> pd.DataFrame:
    """Those with the largest sums of magnitudes, in their own order."""
    sums = rows.assign(strength=rows["effect"].abs()).groupby(by, as_index=False).agg({"strength": "sum"})
    return sums.nlargest(most, "strength").sort_values(by).loc[:, by]


def _extent(what: str, n_shown: int, n_all: int) -> str:
    return what if n_shown == n_all else f"{what} (the strongest {n_shown} of {n_all:,})"


Align = Literal["left", "right", "center"]
_CHARACTER = 6.0  # pixels of an average character of the charts' font size
_LINE = 13.0
_DISTANCES = (8, 16, 28, 42, 58, 76, 96)  # from a point to its label; beyond the first a line leads there
_DIRECTIONS = 16


@dataclass(frozen=True)
class LabelPosition:
    """Where a label is anchored, in pixels from the top left corner.

    Attributes:
        x: of the end of the text that `align` names.
        y: of its middle.
        align: which end of the text is at `x`.
        is_far: whether a line has to lead to it from the point.
    """

    x: float
    y: float
    align: Align
    is_far: bool


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        """Pixels that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)


def label_places(
    points: Sequence[tuple[float, float]], labels: Sequence[str], width: float, height: float
) -> list[LabelPosition]:
    """Places for labels, as near to their points as the other labels, the points and the edges let them be.

    The most crowded points choose last, as they have to go far anyway.
    """
    panel = _Box(0, 0, width, height)
    taken = [_Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    places: dict[int, LabelPosition] = {}
    for index in sorted(range(len(points)), key=lambda i: _crowd(points, i)):
        point, label = points[index], labels[index]
        costs = [(_cost(place, label, point, taken, panel), place) for place in _candidates(point)]
        _, found = min(costs, key=lambda pair: pair[0])
        places[index] = found
        taken += [_box(found, label), *_line(point, found)]
    return [places[index] for index in range(len(points))]


def _crowd(points: Sequence[tuple[float, float]], index: int) -> float:
    return sum(1 / (1 + math.dist(points[index], other)) for other in points)


def _candidates(point: tuple[float, float]) -> Iterator[LabelPosition]:
    x, y = point
    for distance in _DISTANCES:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            dx, dy = distance * math.cos(angle), distance * math.sin(angle)
            is_far = distance > _DISTANCES[0]
            # A line to the middle of a text would run into it.
            align: Align = "center" if abs(dx) < 1 and not is_far else "left" if dx > -1 else "right"
            yield LabelPosition(x + dx, y + dy, align, is_far)


def _box(place: LabelPosition, label: str) -> _Box:
    length = _CHARACTER * len(label)
    left = place.x - length * {"left": 0, "center": 0.5, "right": 1}[place.align]
    return _Box(left, place.y - _LINE / 2, left + length, place.y + _LINE / 2)


def _line(point: tuple[float, float], place: LabelPosition) -> list[_Box]:
    """What the line to a far label covers, as small boxes along it."""
    if not place.is_far:
        return []
    steps = max(1, int(math.dist(point, (place.x, place.y)) / 4))
    along = [
        (point[0] + (place.x - point[0]) * i / steps, point[1] + (place.y - point[1]) * i / steps)
        for i in range(steps)
    ]
    return [_Box(x - 2, y - 2, x + 2, y + 2) for x, y in along]


def _cost(
    place: LabelPosition, label: str, point: tuple[float, float], taken: list[_Box], panel: _Box
) -> float:
    box = _box(place, label)
    hidden = sum(box.overlap(other) for other in taken) + (box.area - box.overlap(panel))
    # The line begins on its own point, which it may cover.
    crossed = sum(part.overlap(other) for part in _line(point, place)[2:] for other in taken)
    aslant = abs(place.y - point[1])
    return 100 * hidden + 10 * crossed + math.dist(point, (place.x, place.y)) + 0.1 * aslant


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
