"""Charts of the neurons that facts, relations and paraphrases share (`study/items/sharing.py`)."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from mnemoscope.report.charts import abreast, cell_width, data, dots, heatmap, with_n
from mnemoscope.report.theme import CONTROL, LOWERS, RAISES, THIRD
from mnemoscope.report.tokens import visible
from mnemoscope.study.items.sharing import PAIRS


def shared(table: pd.DataFrame) -> Any:
    """Item 10: the share, and the share by chance, a panel for each list."""
    panels = []
    for which, rows in table.groupby("list", sort=False):
        named = with_n(rows)
        chart = dots(named, "share_percent", "relation", f"{which} neurons of most facts (%)")
        chance = (
            alt.Chart(data(named))
            .mark_tick(color=CONTROL, thickness=3, size=14, aria=False)
            .encode(
                x=alt.X("by_chance_percent:Q"),
                y=alt.Y("relation:N", sort=list(named["relation"]), title=None),
            )
        )
        # altair moves the data of equal layers to their chart.
        panels.append(
            alt.layer(chance, *chart.layer, data=chart.data).properties(
                width=chart.width, height=chart.height
            )
        )
    return abreast(panels)


def overlap(table: pd.DataFrame) -> Any:
    """Item 12: relations over relations, a panel for each list."""
    panels = []
    for which, rows in table.groupby("list", sort=False):
        named = with_n(rows)
        named["other"] = named["other"].map(visible)
        words = {"jaccard": "Jaccard", "other": f"{which} neurons"}
        panels.append(
            heatmap(named, "other", "relation", "jaccard", size=(46, 24), words=words, written=".2f")
        )
    return abreast(panels, resolve=True)


def paraphrases(table: pd.DataFrame) -> Any:
    """Item 13: a row for each relation, a panel for each list."""
    colors: dict[str, str] = dict(zip(PAIRS, (RAISES, LOWERS, THIRD, CONTROL), strict=True))
    panels = [
        dots(with_n(rows), "jaccard", "relation", f"Jaccard of {which} neurons", by="pairs", colors=colors)
        for which, rows in table.groupby("list", sort=False)
    ]
    return abreast(panels)


def shared_neurons(table: pd.DataFrame) -> Any:
    """Item 14: number of shared neurons in each layer."""
    panels = []
    layers = pd.DataFrame({"layer": range(int(table["layer"].max()) + 1)}) if len(table) else table
    for which, rows in table.groupby("list", sort=False):
        sizes = rows.groupby(["relation", "layer"], sort=False).size()
        counts = pd.DataFrame({"neurons": sizes}).reset_index()
        every = counts[["relation"]].drop_duplicates().merge(layers, how="cross")
        filled = every.merge(counts, how="left", on=["relation", "layer"]).fillna({"neurons": 0})
        filled["relation"] = filled["relation"].map(visible)
        words = {"layer": f"layer of {which} neurons", "neurons": "neurons"}
        size = (cell_width(len(layers)), 18.0)
        panels.append(heatmap(filled, "layer", "relation", "neurons", size=size, words=words))
    return abreast(panels, resolve=True)
