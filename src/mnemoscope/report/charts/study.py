"""Charts of a study's tables, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import altair as alt
import pandas as pd

from mnemoscope.report.charts import (
    abreast,
    cell_width,
    data,
    dots,
    heatmap,
    nothing,
    panel_title,
    with_n,
    without_labels,
)
from mnemoscope.report.theme import CONTROL, KINDS, LOWERS, RAISES, TEXT, THIRD
from mnemoscope.report.tokens import unspaced, visible
from mnemoscope.study.bootstrap import ALL
from mnemoscope.study.columns import NONE, RANDOM, SAME_LAYERS
from mnemoscope.study.items.layers import ROLES
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


_N_READ = 5
_N_TOKENS = 6
_NATS = "log-probability increase (nats)"


def facts_kept(table: pd.DataFrame) -> Any:
    """Item 0: numbers of facts tried and kept."""
    rows = table.loc[table["relation"] != ALL].assign(relation=lambda rows: rows["relation"].map(visible))
    y = alt.Y("relation:N", sort=list(rows["relation"]), title=None)
    base = alt.Chart(data(rows)).encode(y=y)
    tried = base.mark_bar(color=CONTROL, opacity=0.35, aria=False).encode(
        x=alt.X("n_tried:Q", title="facts tried, kept", axis=alt.Axis(tickMinStep=1))
    )
    kept = base.mark_bar(color=RAISES, aria=False).encode(x="n_kept:Q")
    return alt.layer(tried, kept).properties(width=420, height=20 * len(rows))


def facts_dropped(table: pd.DataFrame) -> Any:
    """Item 0: number of facts dropped for each reason."""
    if table.empty:
        return nothing("none was dropped")
    rows = table.assign(reason=table["reason"].map(visible))
    y = alt.Y("reason:N", sort=list(rows["reason"]), title=None, axis=alt.Axis(labelLimit=460))
    bars = alt.Chart(data(rows.loc[:, ["reason", "n_dropped"]])).mark_bar(color=CONTROL, aria=False)
    return bars.encode(y=y, x=alt.X("n_dropped:Q", title="facts", axis=alt.Axis(tickMinStep=1))).properties(
        width=300, height=20 * len(rows)
    )


def methods(table: pd.DataFrame) -> Any:
    """Item 1, all relations together: a panel each for MRR and probability."""
    rows = table.loc[table["relation"] == ALL]
    control = rows["method"].isin([NONE, RANDOM, SAME_LAYERS])
    rows = rows.assign(sort=control.map({True: "control", False: "method"}))
    colors = {"method": RAISES, "control": CONTROL}
    titles = {"mrr": "MRR after zeroing", "probability_percent": "probability after zeroing (%)"}
    return abreast(
        [dots(rows, name, "title", title, by="sort", colors=colors) for name, title in titles.items()]
    )


def method_layers(table: pd.DataFrame) -> Any:
    """Item 2, all relations together: a row of bars for each method."""
    rows = table.loc[table["relation"] == ALL]
    n_layers = rows["layer"].nunique()
    bars = (
        alt.Chart(data(rows))
        .mark_bar(color=RAISES, aria=False)
        .encode(
            x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("share:Q", title=None, axis=alt.Axis(format="%", values=[0, 0.5, 1])),
            row=alt.Row(
                "title:N",
                sort=list(dict.fromkeys(rows["title"])),
                title=None,
                header=alt.Header(labelAngle=0, labelAlign="left", labelPadding=8),
            ),
        )
    )
    return bars.properties(width=max(300, 16 * n_layers), height=44).configure_facet(spacing=18)


def path(table: pd.DataFrame) -> Any:
    """Item 3, all relations together: mean, and the middle half of the facts."""
    rows = table.loc[table["relation"] == ALL]
    panels = []
    for name, title in (("log_probability", "log p (nats)"), ("probability_percent", "p (%)")):
        base = alt.Chart(data(rows)).encode(
            x=alt.X("way:Q", title="share of the way", axis=alt.Axis(format="%"))
        )
        y = alt.Y(f"{name}:Q", title=title)
        areas = [
            base.mark_area(color=RAISES, opacity=opacity, aria=False).encode(
                y=alt.Y(f"{name}_q{low}:Q", title=title), y2=f"{name}_q{high}:Q"
            )
            for low, high, opacity in (("05", "95", 0.12), ("25", "75", 0.25))
        ]
        line = base.mark_line(color=RAISES, point=alt.OverlayMarkDef(color=RAISES), aria=False).encode(y=y)
        panels.append(alt.layer(*areas, line).properties(width=300, height=240))
    return alt.hconcat(*panels)


def value_layers(table: pd.DataFrame) -> Any:
    """Item 4: relations over layers, a panel for each kind."""
    return _by_kind(table, _NATS)


def query_layers(table: pd.DataFrame) -> Any:
    """Item 7: relations over layers, for attention value neurons above and FFN value neurons below."""
    if table.empty:
        return nothing()
    named = table.assign(kind=table["kind"].replace("embeddings", "ffn"))
    parts = [
        _by_kind(rows, "query score (nats)", f"what activates {KINDS[str(activates)]} value neurons")
        for activates, rows in named.groupby("activates", sort=False)
    ]
    return alt.vconcat(*parts).resolve_scale(color="independent")


def value_sums(table: pd.DataFrame) -> Any:
    """Item 4: a panel for each choice of neurons; a line from the lower to the upper bound."""
    if table.empty:
        return nothing()
    titles = {"top": "first ones", "positive": "positive", "all": "all"}
    colors = {"attention": RAISES, "ffn": LOWERS, "both": CONTROL}
    rows = with_n(table).rename(columns={"lower": "sum_low", "upper": "sum_high"})
    rows["sum"] = (rows["sum_low"] + rows["sum_high"]) / 2
    panels = [
        dots(
            rows.loc[rows["neurons"] == name],
            "sum",
            "relation",
            f"{title} (nats)",
            width=190,
            by="kind",
            colors=colors,
        )
        for name, title in titles.items()
    ]
    return abreast(panels)


def heads(table: pd.DataFrame) -> Any:
    """Item 5: a map of layers and heads for each relation."""
    rows = with_n(table.loc[table["relation"] != ALL])
    if rows.empty:
        return nothing()
    largest = float(rows["score"].abs().max())
    size = (min(9.0, 260 / rows["layer"].nunique()), min(9.0, 260 / rows["head"].nunique()))
    words = {"layer": "layer", "head": "head", "score": _NATS}
    maps = [
        heatmap(
            part, "layer", "head", "score", size=size, words=words, marked="zeroed", largest=largest
        ).properties(title=panel_title(str(relation)))
        for relation, part in rows.groupby("relation", sort=False)
    ]
    return alt.concat(*maps, columns=3)


def heads_zeroed(table: pd.DataFrame) -> Any:
    """Item 5: relations of the facts over relations of the heads, a panel each for MRR and probability."""
    if table.empty:
        return nothing()
    rows = with_n(table)
    rows["heads_of"] = rows["heads_of"].map(visible)
    panels = []
    for name, title in (("mrr", "MRR"), ("probability", "probability")):
        column = f"{name}_drop_percent"
        words = {"heads_of": "heads zeroed", "relation": "facts", column: "fall (%)"}
        chart = heatmap(
            rows, "heads_of", "relation", column, size=(40, 24), words=words, written=".0f", largest=100.0
        )
        panels.append(chart.properties(title=panel_title(f"fall of {title} (%)")))
    return abreast(panels)


def heads_within_and_across(table: pd.DataFrame) -> Any:
    """Item 5: the fall of MRR and probability, pooled over facts."""
    if table.empty:
        return nothing()
    rows = with_n(table.rename(columns={"heads": "relation"}))
    return _falls(rows, "", {})


def value_zeroed(table: pd.DataFrame) -> Any:
    """Item 6: the falls with value neurons zeroed, beside random neurons of the same layers."""
    return _beside_control(table, "value neurons")


def query_zeroed(table: pd.DataFrame) -> Any:
    """Item 8: the falls with query neurons zeroed, beside random neurons of the same layers."""
    return _beside_control(table, "query neurons")


def roles_by_depth(table: pd.DataFrame) -> Any:
    """Item 9, all relations together: a line for each role, with its interval."""
    rows = table.loc[table["relation"] == ALL]
    if rows.empty:
        return nothing()
    scale = alt.Scale(domain=list(ROLES), range=[RAISES, THIRD, LOWERS])
    dashes = alt.Scale(domain=list(ROLES), range=[[1, 0], [2, 2], [6, 3]])
    # Alike but for what they encode, so that Vega makes one legend of them.
    of_role: dict[str, Any] = {
        "shorthand": "role:N",
        "sort": list(ROLES),
        "title": None,
        "legend": alt.Legend(symbolType="stroke", symbolSize=300, symbolOpacity=1, symbolStrokeWidth=2),
    }
    base = alt.Chart(data(rows)).encode(
        x=alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color(**of_role, scale=scale),
        strokeDash=alt.StrokeDash(**of_role, scale=dashes),
    )
    y = "FFN neurons of a fact"
    band = base.mark_area(opacity=0.2, aria=False).encode(
        y=alt.Y("neurons_low:Q", title=y), y2="neurons_high:Q"
    )
    line = base.mark_line(aria=False).encode(y=alt.Y("neurons:Q", title=y))
    return alt.layer(line, band).properties(width=520, height=260)


def readings(table: pd.DataFrame) -> Any:
    """Item 11: the first FFN value neurons of each relation, with the tokens they promote."""
    rows = table.loc[(table["list"] == "ffn_value") & (table["place"] <= _N_READ)]
    if rows.empty:
        return nothing()
    names = [f"{visible(row.relation)}  layer {row.layer}, neuron {row.neuron}" for row in rows.itertuples()]
    tokens = ["  ".join(map(unspaced, texts[:_N_TOKENS])) for texts in rows["promotes"]]
    rows = rows.loc[:, ["share", "n_facts"]].assign(name=names, tokens=tokens)
    base = alt.Chart(data(rows))
    bars = base.mark_bar(color=RAISES, aria=False).encode(
        y=alt.Y("name:N", sort=names, title=None),
        x=alt.X("share:Q", title="share of facts", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
    )
    texts = base.mark_text(align="left", color=TEXT, fontSize=11, limit=420, aria=False).encode(
        y=alt.Y("name:N", sort=names, title=None), x=alt.value(0), text="tokens:N"
    )
    left = bars.properties(width=120, height=18 * len(rows))
    right = without_labels(texts.properties(width=420, height=18 * len(rows)))
    return alt.hconcat(left, right, spacing=10)


def _by_kind(table: pd.DataFrame, value: str, title: str = "") -> Any:
    rows = with_n(table)
    largest = float(rows["score"].abs().max())
    rows["order"] = rows["relation"].map(list(rows["relation"].unique()).index)
    panels = []
    for kind, name in KINDS.items():
        part = rows.loc[rows["kind"] == kind].sort_values(["order", "layer"], kind="stable")
        words = {"layer": f"{name} layer", "score": value}
        size = (cell_width(part["layer"].nunique()), 18.0)
        panels.append(
            heatmap(
                part, "layer", "relation", "score", size=size, words=words, marked="marked", largest=largest
            )
        )
    chart = abreast(panels)
    return chart.properties(title=panel_title(title)) if title else chart


def _beside_control(table: pd.DataFrame, chosen: str) -> Any:
    if table.empty:
        return nothing()
    return _falls(with_n(table), "parts", {chosen: RAISES, SAME_LAYERS: CONTROL})


def _falls(rows: pd.DataFrame, by: str, colors: dict[str, str]) -> Any:
    """Draw the falls of MRR, probability and log p, a panel each."""
    titles = {
        "mrr_drop_percent": "fall of MRR (%)",
        "probability_drop_percent": "fall of probability (%)",
        "log_probability_drop": "fall of log p (nats)",
    }
    panels = [
        dots(rows, name, "relation", title, width=190, by=by, colors=colors) for name, title in titles.items()
    ]
    return abreast(panels)


CHARTS: dict[str, Callable[[pd.DataFrame], Any]] = {
    chart.__name__: chart
    for chart in (
        facts_kept,
        facts_dropped,
        methods,
        method_layers,
        path,
        value_layers,
        value_sums,
        heads,
        heads_zeroed,
        heads_within_and_across,
        value_zeroed,
        query_layers,
        query_zeroed,
        roles_by_depth,
        shared,
        readings,
        overlap,
        paraphrases,
        shared_neurons,
    )
}
