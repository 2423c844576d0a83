"""Items 2 to 5, 7 and 9: scores of layers and heads, and neurons by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mnemoscope.study.bootstrap import fact_groups, means_by_relation, sorted_rows
from mnemoscope.study.columns import (
    FACT,
    HEADS,
    LAYERS,
    METHOD_NEURONS,
    METHODS,
    PATH,
    QUERY_NEURONS,
    SUMS,
    VALUE_NEURONS,
)
from mnemoscope.study.items.zeroing import title_of
from mnemoscope.study.measure_relations import relation_heads
from mnemoscope.study.results import Study

N_MARKED = 10  # layers of each relation
BOTH = "both"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ROLES = ("value-only", "query-value", "query-only")


def method_layers(study: Study) -> pd.DataFrame:
    """Compute the share of each method's neurons in each layer (item 2).

    Columns: `relation, method, title, layer, n_facts, share` (of the method's neurons) with `_low` and
    `_high`.
    """
    table = _of_known(study, METHOD_NEURONS.name)
    counts = _counted(table, [FACT, "method", "layer"], "share")
    counts["share"] /= counts.groupby([FACT, "method"])["share"].transform("sum")
    found = means_by_relation(
        study, _in_every_layer(study, counts, ["method"]), ["method", "layer"], "share", 0
    )
    found.insert(2, "title", found["method"].map(title_of))
    return sorted_rows(found, {"relation": found["relation"].unique().tolist(), "method": METHODS}, ["layer"])


def path(study: Study) -> pd.DataFrame:
    """Average log p and p of the target along the straight path from embeddings to final state (item 3).

    Columns: `relation, way, n_facts`, then `log_probability` (nats) and `probability_percent`, each the mean
    with `_low` and `_high`, and the quantiles over facts `_q05, _q25, _q50, _q75, _q95`.
    """
    table = _of_known(study, PATH.name).assign(way=lambda rows: rows["way"].round(6))
    table["probability_percent"] = 100 * table["probability"]
    names = ("log_probability", "probability_percent")
    found = [means_by_relation(study, table, ["way"], name) for name in names]
    merged = found[0].merge(found[1], on=["relation", "way", "n_facts"])
    for name in names:
        wide = table.pivot(index=FACT, columns="way", values=name)
        parts = [wide.reindex(facts).quantile(QUANTILES).T for _, facts in fact_groups(study)]
        for quantile in QUANTILES:
            merged[f"{name}_q{round(100 * quantile):02d}"] = np.concatenate(
                [part[quantile] for part in parts]
            )
    return merged


def value_layers(study: Study) -> pd.DataFrame:
    """Average the log-probability increase of every layer's attention and FFN output (item 4).

    Columns: `relation, kind, layer, n_facts, score` (nats) with `_low` and `_high`, `place` among all layers
    of both kinds, and whether it is `marked` as one of the first 10.
    """
    table = _of_known(study, LAYERS.name)
    return _placed(means_by_relation(study, table.loc[table["layer"] >= 0], ["kind", "layer"], "score"), [])


def value_sums(study: Study) -> pd.DataFrame:
    """Average the bounds of the sums of scores over all, the positive and the first neurons (item 4).

    Columns: `relation, kind` (`both` adds them up), `neurons` (`all`, `positive`, `top`), `n_facts,
    n_neurons` (empty for `positive`), the means of the bounds `lower` and `upper` (nats), and the ends of
    their intervals over facts `lower_low`, `upper_high`. Few facts of each relation are summed.
    """
    table = _of_known(study, SUMS.name).astype({"n_neurons": "Float64"})
    measures = ["n_neurons", "lower", "upper"]
    both = table.groupby([FACT, "neurons"])[measures].sum(min_count=2).reset_index().assign(kind=BOTH)
    table = pd.concat([table, both], ignore_index=True)
    keys = ["kind", "neurons"]
    lower, upper, number = (
        means_by_relation(study, table, keys, name) for name in ("lower", "upper", "n_neurons")
    )
    found = lower.drop(columns="lower_high").merge(
        upper.drop(columns="upper_low"), on=["relation", *keys, "n_facts"]
    )
    found = found.merge(number[["relation", *keys, "n_neurons"]], on=["relation", *keys])
    order = ["relation", *keys, "n_facts", "n_neurons", "lower", "upper", "lower_low", "upper_high"]
    return found.loc[:, order]


def heads(study: Study) -> pd.DataFrame:
    """Average the log-probability increase of every head (item 5).

    Columns: `relation, layer, head, n_facts, score` (nats) with `_low` and `_high`, `place`, and whether it
    is among those `zeroed` for the relation.
    """
    found = means_by_relation(study, _of_known(study, HEADS.name), ["layer", "head"], "score")
    found["place"] = found.groupby("relation")["score"].rank(method="first", ascending=False).astype("Int32")
    chosen = relation_heads(study.folder, study.options)
    zeroed = {(relation, *head) for relation, listed in chosen.items() for head in listed}
    keys = found[["relation", "layer", "head"]].itertuples(index=False, name=None)
    return found.assign(zeroed=pd.Series([key in zeroed for key in keys], dtype=bool))


def query_layers(study: Study) -> pd.DataFrame:
    """Average the query score of every layer for the first value neurons (item 7).

    Columns: `relation, activates` (value neurons of `attention` or `ffn`), `kind` (also `embeddings`, whose
    layer is -1), `layer, n_facts, score` (nats) with `_low` and `_high`, `place` among all, and `marked` as
    in item 4. Empty for a model whose neurons' inputs are unknown.
    """
    table = _of_known(study, LAYERS.name)
    groups_of = {"query_of_attention": "attention", "query_of_ffn": "ffn"}
    table = table.drop(columns="score")
    long = table.melt([FACT, "kind", "layer"], list(groups_of), "activates", "score").dropna(subset="score")
    long["activates"] = long["activates"].map(groups_of)
    return _placed(means_by_relation(study, long, ["activates", "kind", "layer"], "score"), ["activates"])


def roles_by_depth(study: Study) -> pd.DataFrame:
    """Count the FFN neurons of a fact that are value neurons, query neurons, or both, by layer (item 9).

    Columns: `relation, role` (`value-only`, `query-value`, `query-only`), `layer, n_facts, neurons` (mean
    number of a fact) with `_low` and `_high`.
    """
    queries = _of_known(study, QUERY_NEURONS.name)
    values = _of_known(study, VALUE_NEURONS.name)
    values = values.loc[values["kind"] == "ffn"].astype({"neuron": "int32"})
    keys = [FACT, "layer", "neuron"]
    roles = queries[keys].merge(values[keys], on=keys, how="outer", indicator="role")
    named = dict(zip(("right_only", "both", "left_only"), ROLES, strict=True))
    roles["role"] = roles["role"].astype(str).map(named)
    counts = _counted(roles, [FACT, "role", "layer"], "neurons")
    counts = _in_every_layer(study, counts, ["role"])
    found = means_by_relation(study, counts, ["role", "layer"], "neurons", 0)
    return sorted_rows(found, {"relation": found["relation"].unique().tolist(), "role": ROLES}, ["layer"])


def _of_known(study: Study, name: str) -> pd.DataFrame:
    table = study.table(name)
    return table.loc[table[FACT].isin(study.known[FACT])]


def _counted(table: pd.DataFrame, keys: list[str], name: str) -> pd.DataFrame:
    """Count the rows of each combination of keys."""
    return pd.DataFrame({name: table.groupby(keys).size()}).reset_index()


def _in_every_layer(study: Study, counts: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Add an empty row for each layer that no fact has, so that it counts as 0."""
    if counts.empty:
        return counts
    every = (
        counts[names]
        .drop_duplicates()
        .merge(pd.DataFrame({"layer": range(study.manifest["n_layers"])}), how="cross")
    )
    first = study.known[FACT].iloc[0]
    return counts.merge(every.assign(**{FACT: first}), on=[FACT, *names, "layer"], how="outer")


def _placed(table: pd.DataFrame, within: list[str]) -> pd.DataFrame:
    ranked = table.groupby(["relation", *within], sort=False)["score"].rank(method="first", ascending=False)
    place = ranked.astype("Int32")
    return table.assign(place=place, marked=(place <= N_MARKED).fillna(False).astype(bool))
