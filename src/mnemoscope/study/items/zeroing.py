"""Items 1, 5, 6 and 8: the target before and after ablation of neurons or heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mnemoscope.attribution.methods.registry import method as find_method
from mnemoscope.study.bootstrap import fact_groups, mean_and_interval, relations_of, relative_drop
from mnemoscope.study.columns import CONTROL_TITLES, FACT, METHODS, NONE, OUTCOMES, RANDOM
from mnemoscope.study.measure_relations import relation_heads
from mnemoscope.study.results import Study

_METRICS = ("reciprocal_rank", "probability", "log_probability")
_LEVELS = tuple(f"{name}{end}" for name in ("mrr", "probability_percent") for end in ("_before", ""))
_DROPS = ("mrr_drop_percent", "probability_drop_percent", "log_probability_drop")
_FALLS = (*_LEVELS, *(f"{name}{end}" for name in _DROPS for end in ("", "_low", "_high")))
WITHIN, ACROSS = "of the fact's relation", "of other relations"


def title_of(method: str) -> str:
    """Return the title of a method or control."""
    return CONTROL_TITLES.get(method) or find_method(method).title


def methods(study: Study) -> pd.DataFrame:
    """Average the target after ablation of each method's first FFN neurons (item 1).

    Columns: `relation, method, title, n_facts, n_neurons`, then `mrr`, `probability_percent` and
    `log_probability` (nats), each with `_low` and `_high`.
    """
    outcomes = _outcomes(study, "methods")
    rows = []
    for relation, facts in fact_groups(study):
        for name in (*CONTROL_TITLES, *METHODS):
            of_method = outcomes[name].reindex(facts)
            row = {"relation": relation, "method": name, "title": title_of(name), "n_facts": len(facts)}
            rows.append({**row, "n_neurons": of_method["n_parts"].mean(), **_levels(of_method)})
    return pd.DataFrame(rows)


def value_zeroed(study: Study) -> pd.DataFrame:
    """Average the effect of ablating the first value neurons of both kinds (item 6), as `zeroed`."""
    return zeroed(study, "value_neurons")


def query_zeroed(study: Study) -> pd.DataFrame:
    """Average the effect of ablating the first shallow FFN query neurons (item 8), as `zeroed`."""
    return zeroed(study, "query_neurons")


def zeroed(study: Study, experiment: str) -> pd.DataFrame:
    """Average the effect of ablating neurons, beside random ones of the same layers.

    Columns: `relation, parts, n_facts, n_neurons`, the means `mrr_before, mrr, probability_percent_before,
    probability_percent`, then their falls `mrr_drop_percent`, `probability_drop_percent` and
    `log_probability_drop` (nats), each with `_low` and `_high`. Facts without such neurons are left out.
    """
    outcomes = _outcomes(study, experiment)
    rows = []
    for relation, facts in fact_groups(study):
        for name in [name for name in outcomes if name != NONE]:
            after = outcomes[name].reindex(facts).dropna()
            if after.empty:
                continue
            row = {"relation": relation, "parts": name, "n_facts": len(after)}
            rows.append({**row, "n_neurons": after["n_parts"].mean(), **_falls(outcomes, after)})
    return pd.DataFrame(rows, columns=["relation", "parts", "n_facts", "n_neurons", *_FALLS])


def heads_zeroed(study: Study) -> pd.DataFrame:
    """Average the effect of each relation's heads on the facts of every relation (item 5).

    Columns: `relation` (of the facts), `heads_of` (a relation, or `random`), `n_facts, n_heads`,
    `shared_heads` (heads that both relations have), then as in `zeroed`.
    """
    outcomes = _outcomes(study, "heads")
    chosen = {name: set(heads) for name, heads in relation_heads(study.folder, study.options).items()}
    rows = []
    for relation, facts in list(fact_groups(study))[1:]:
        for name in [name for name in (*relations_of(study), RANDOM) if name in outcomes]:
            after = outcomes[name].reindex(facts).dropna()
            if after.empty:
                continue
            shared = len(chosen[relation] & chosen[name]) if name in chosen else None
            row = {"relation": relation, "heads_of": name, "n_facts": len(after)}
            row |= {"n_heads": after["n_parts"].mean(), "shared_heads": shared}
            rows.append({**row, **_falls(outcomes, after)})
    columns = ["relation", "heads_of", "n_facts", "n_heads", "shared_heads", *_FALLS]
    return pd.DataFrame(rows, columns=columns).astype({"shared_heads": "Int32"})


def heads_within_and_across(study: Study) -> pd.DataFrame:
    """Average over all facts the effect of their own relation's, other and random heads (item 5).

    Columns: `heads, n_facts`, then as in `zeroed`. For `of other relations` each fact's outcomes are
    first averaged over relations.
    """
    outcomes = _outcomes(study, "heads")
    known = study.known.set_index(FACT)["relation"]
    names = [name for name in relations_of(study) if name in outcomes]
    own = [outcomes[name].reindex(known.index[known == name]) for name in names]
    others = [outcomes[name].reindex(known.index[known != name]) for name in names]
    sets = {WITHIN: own, ACROSS: others, RANDOM: [outcomes[RANDOM]] if RANDOM in outcomes else []}
    rows = []
    for name, tables in sets.items():
        if not tables or pd.concat(tables).dropna().empty:
            continue
        after = pd.DataFrame(pd.concat(tables).dropna().groupby(level=0).mean())
        rows.append({"heads": name, "n_facts": len(after), **_falls(outcomes, after)})
    return pd.DataFrame(rows, columns=["heads", "n_facts", *_FALLS])


def _outcomes(study: Study, experiment: str) -> dict[str, pd.DataFrame]:
    """Return the metrics by fact for each ablated set and the intact model, averaged over draws."""
    table = study.table(OUTCOMES.name)
    table = table[table["experiment"].isin(["none", experiment]) & table[FACT].isin(study.known[FACT])]
    columns = [*_METRICS, "n_parts"]
    means = table.astype(dict.fromkeys(columns, float)).groupby(["parts", FACT])[columns].mean()
    return {name: pd.DataFrame(means.loc[name]) for name in dict.fromkeys(table["parts"])}


def _levels(table: pd.DataFrame) -> dict[str, float]:
    scaled = {
        "mrr": table["reciprocal_rank"],
        "probability_percent": 100 * table["probability"],
        "log_probability": table["log_probability"],
    }
    return _with_ends(tuple(scaled), np.stack([values.to_numpy() for values in scaled.values()], axis=1))


def _falls(outcomes: dict[str, pd.DataFrame], after: pd.DataFrame) -> dict[str, float]:
    before = outcomes[NONE].loc[after.index]
    found: dict[str, float] = {}
    names = {"reciprocal_rank": ("mrr", 1), "probability": ("probability_percent", 100)}
    for metric, (name, scale) in names.items():
        found |= {f"{name}_before": scale * before[metric].mean(), name: scale * after[metric].mean()}
    for metric, name in (("reciprocal_rank", "mrr"), ("probability", "probability")):
        drop = relative_drop(before[metric].to_numpy(), after[metric].to_numpy())
        found |= _named(f"{name}_drop_percent", drop)
    fall = (before["log_probability"] - after["log_probability"]).to_numpy()
    return found | _with_ends(["log_probability_drop"], fall[:, None])


def _with_ends(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, *numbers in zip(names, *mean_and_interval(values), strict=True):
        found |= _named(name, numbers)
    return found


def _named(name: str, numbers: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), map(float, numbers), strict=True))
