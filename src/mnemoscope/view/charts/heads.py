"""The heads: all of them by depth, and the strongest over the tokens they look at."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from mnemoscope.attribution.result import Attribution
from mnemoscope.view.charts.look import cell_width, heatmap, layer_step
from mnemoscope.view.charts.words import at_position, effect_title
from mnemoscope.view.depth import Depth
from mnemoscope.view.effects import Effects

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
