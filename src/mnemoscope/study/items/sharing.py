"""Items 10 to 14: neurons that facts, paraphrases and relations share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from mnemoscope.results.resampling import interval, resample_counts
from mnemoscope.study.bootstrap import (
    LEAST_FACTS,
    mean_and_interval,
    order_relations,
    relations_of,
    sorted_rows,
)
from mnemoscope.study.columns import FACT, QUERY_NEURONS, READINGS, VALUE_NEURONS
from mnemoscope.study.facts import evenly
from mnemoscope.study.filter import PARAPHRASE_KEY
from mnemoscope.study.results import Study

LISTS = ("value", "query")
# Identity of a neuron; -1 where its kind has no such index.
NEURON = ["kind", "layer", "neuron", "head", "dim"]
# Facts of a relation whose sets are compared pairwise.
MOST_FACTS = 200
_COLUMNS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class NeuronSets:
    """Sets of the neurons that facts list.

    Attributes:
        facts: rows of `facts`, `[n_facts]`.
        neurons: all that are listed, with the columns of `NEURON`, `[n_neurons]`.
        listed: whether a fact lists a neuron, bool `[n_facts, n_neurons]`.
    """

    facts: pd.DataFrame
    neurons: pd.DataFrame
    listed: np.ndarray

    def of(self, facts: np.ndarray) -> NeuronSets:
        """Select facts by row, without the neurons that none of them lists."""
        listed = self.listed[facts]
        there = listed.any(axis=0)
        return NeuronSets(
            self.facts.iloc[facts].reset_index(drop=True),
            self.neurons.loc[there].reset_index(drop=True),
            listed[:, there],
        )

    def of_relation(self, relation: str) -> NeuronSets:
        """Select the facts of one relation."""
        return self.of(np.flatnonzero(self.facts["relation"] == relation))

    @cached_property
    def n_facts_listing(self) -> np.ndarray:
        """Number of facts that list each neuron, `[n_neurons]`."""
        return self.listed.sum(axis=0)

    @property
    def shared(self) -> np.ndarray:
        """Mask of the neurons that more than half of the facts list, `[n_neurons]`."""
        return 2 * self.n_facts_listing > len(self.facts)

    def keys(self, chosen: np.ndarray) -> set[tuple[str | int, ...]]:
        """Return identities of neurons, which other `NeuronSets` share."""
        return set(self.neurons[chosen].itertuples(index=False, name=None))

    def jaccard(self) -> np.ndarray:
        """Return the Jaccard index of each pair of facts, `[n_facts, n_facts]`.

        NaN for two empty sets, and for a fact and itself.
        """
        common = np.zeros((len(self.facts),) * 2, np.float32)
        # Sums of ones are exact in any order of summation.
        for start in range(0, self.listed.shape[1], _COLUMNS_AT_ONCE):
            some = self.listed[:, start : start + _COLUMNS_AT_ONCE].astype(np.float32)
            common += some @ some.T
        sizes = self.listed.sum(axis=1).astype(np.float32)
        either = sizes[:, None] + sizes - common
        alike = np.divide(common, either, out=np.full_like(common, np.nan), where=either > 0).astype(float)
        np.fill_diagonal(alike, np.nan)
        return alike


def listed_neurons(study: Study, which: str, facts: pd.DataFrame) -> pd.DataFrame:
    """Return the neurons that facts list: `fact`, the columns of `NEURON`, and `score` (nats).

    An attention neuron that is listed for several positions counts once a fact, its scores added up.

    Args:
        study: the study.
        which: `value` (the first value neurons of both kinds) or `query` (FFN query neurons).
        facts: rows of `facts`.
    """
    if which == "value":
        table = study.table(VALUE_NEURONS.name)
    else:
        table = study.table(QUERY_NEURONS.name).assign(kind="ffn", head=-1, dim=-1)
    table = table.loc[table[FACT].isin(facts[FACT]), [FACT, *NEURON, "score"]]
    numbers = NEURON[1:]
    table[numbers] = table[numbers].fillna(-1).astype("int64")
    return table.astype({"score": float}).groupby([FACT, *NEURON], as_index=False)["score"].sum()


def neuron_sets(study: Study, which: str, facts: pd.DataFrame) -> NeuronSets:
    """Return the set of neurons that each fact lists; arguments as for `listed_neurons`."""
    found = listed_neurons(study, which, facts)
    neurons = found.loc[:, NEURON].drop_duplicates().sort_values(NEURON, ignore_index=True)
    column = found.merge(neurons.reset_index(names="column"), on=NEURON, how="left")["column"].to_numpy()
    listed = np.zeros((len(facts), len(neurons)), bool)
    listed[pd.Index(facts[FACT]).get_indexer(pd.Index(found[FACT])), column] = True
    return NeuronSets(facts, neurons, listed)


def _lists(study: Study, facts: pd.DataFrame) -> Iterator[tuple[str, NeuronSets]]:
    """Yield the name and the facts' sets of each list that has neurons."""
    for which in LISTS:
        found = neuron_sets(study, which, facts)
        if found.listed.any():
            yield which, found


def few_of_each(study: Study, found: NeuronSets) -> NeuronSets:
    """Select at most `MOST_FACTS` facts of each relation, evenly spaced, relation by relation."""
    relations = found.facts["relation"]
    rows = (np.flatnonzero(relations == name).tolist() for name in relations_of(study))
    return found.of(np.concatenate([evenly(of_relation, MOST_FACTS) for of_relation in rows]))


PAIRS = (
    "paraphrases of one fact",
    "other facts, same wording",
    "other facts, other wording",
    "facts of other relations",
)


def shared(study: Study) -> pd.DataFrame:
    """Compute the share of a fact's neurons that more than half of its relation's facts list (item 10).

    Columns: `relation, list` (`value` or `query`), `n_facts, n_listed` (mean number of distinct neurons of a
    fact), `n_shared`, `share_percent` with `_low` and `_high`, and `by_chance_percent`, its expectation for
    as many random neurons in each layer.
    """
    rows = []
    for which, found in _lists(study, study.known):
        for relation in relations_of(study):
            own = found.of_relation(relation)
            if not own.listed.any():
                continue
            n_listed = own.listed.sum() / len(own.facts)
            low, high = _shares(own)
            rows.append(
                {
                    "relation": relation,
                    "list": which,
                    "n_facts": len(own.facts),
                    "n_listed": n_listed,
                    "n_shared": int(own.shared.sum()),
                    "share_percent": 100 * own.shared.sum() / n_listed,
                    "share_percent_low": low,
                    "share_percent_high": high,
                    "by_chance_percent": 100 * _by_chance(study, own) / n_listed,
                }
            )
    columns = ["relation", "list", "n_facts", "n_listed", "n_shared", "share_percent"]
    return pd.DataFrame(
        rows, columns=[*columns, "share_percent_low", "share_percent_high", "by_chance_percent"]
    )


def readings(study: Study) -> pd.DataFrame:
    """Sort the stored table `readings` by relation, list and place (item 11)."""
    table = study.table(READINGS.name)
    lists = ("ffn_value", "attention_value", "ffn_query")
    return sorted_rows(table, {"relation": order_relations(table["relation"]), "list": lists}, ["place"])


def shared_neurons(study: Study) -> pd.DataFrame:
    """List the neurons in the lists of more than half of a relation's facts, most shared first (item 14).

    Columns: `relation, list, place`, then `NEURON` (-1 where a kind has no such number), `n_facts, share`,
    and `mean_score` (nats) over the facts that list it.
    """
    facts = study.known[[FACT, "relation"]]
    facts = facts.assign(size=facts.groupby("relation")[FACT].transform("count"))
    tables = []
    for which in LISTS:
        grouped = (
            listed_neurons(study, which, study.known)
            .merge(facts, on=FACT)
            .groupby(["relation", "size", *NEURON])["score"]
        )
        found = grouped.agg(n_facts="size", mean_score="mean").reset_index()
        tables.append(found[2 * found["n_facts"] > found["size"]].assign(list=which))
    found = pd.concat(tables, ignore_index=True)
    found["share"] = found["n_facts"] / found["size"]
    orders = {"relation": relations_of(study), "list": LISTS}
    found = sorted_rows(found, orders, ["n_facts", "mean_score"], ascending=False)
    found["place"] = found.groupby(["relation", "list"]).cumcount() + 1
    columns = ["relation", "list", "place", *NEURON, "n_facts", "share", "mean_score"]
    return found[columns].astype(dict.fromkeys(["place", *NEURON[1:]], "int32"))


def overlap(study: Study) -> pd.DataFrame:
    """Average the Jaccard index between the sets of two relations (item 12).

    Columns: `list, relation, other, n_facts`, `jaccard` with `_low` and `_high` (mean over the relation's
    facts and the other's, or the other facts of its own), and `shared_jaccard` of the neurons that more than
    half of the facts list. At most `MOST_FACTS` facts of each relation are compared.
    """
    rows = []
    for which, every in _lists(study, study.known):
        found = few_of_each(study, every)
        alike = found.jaccard()
        relation_of = found.facts["relation"].to_numpy()
        most = {
            name: own.keys(own.shared) for name in relations_of(study) for own in [every.of_relation(name)]
        }
        for relation in relations_of(study):
            for other in relations_of(study):
                block = alike[np.ix_(relation_of == relation, relation_of == other)]
                both, either = most[relation] & most[other], most[relation] | most[other]
                row = {"list": which, "relation": relation, "other": other, **_mean_of_facts(block)}
                rows.append({**row, "shared_jaccard": len(both) / len(either) if either else math.nan})
    columns = ["list", "relation", "other", "n_facts", "jaccard", "jaccard_low", "jaccard_high"]
    return pd.DataFrame(rows, columns=[*columns, "shared_jaccard"])


def paraphrases(study: Study) -> pd.DataFrame:
    """Average the Jaccard index between paraphrases of one fact, beside that between other facts (item 13).

    Columns: `relation, list, pairs` (one of `PAIRS`), `n_facts` that have such a partner, `jaccard` (mean
    over facts of the mean over their partners) with `_low` and `_high`. Where the source has no template, the
    wording is the prompt without its subject; facts without a subject are compared with other relations only.
    """
    facts = _worded(study)
    rows = []
    for which, found in _lists(study, facts):
        alike = found.jaccard()
        partners = _partners(found.facts)
        for relation in relations_of(study):
            own = (found.facts["relation"] == relation).to_numpy()
            for pairs, mask in partners.items():
                block = np.where(mask, alike, np.nan)[own]
                row = {"relation": relation, "list": which, "pairs": pairs, **_mean_of_facts(block)}
                if row["n_facts"]:
                    rows.append(row)
    names = ["relation", "list", "pairs", "n_facts", "jaccard", "jaccard_low", "jaccard_high"]
    return pd.DataFrame(rows, columns=names)


def _worded(study: Study) -> pd.DataFrame:
    """Return facts in all wordings with neurons; of many facts, some of those with several wordings."""
    facts = pd.concat([study.known, study.paraphrases]).sort_values(FACT, ignore_index=True)
    few = [_few_worded(rows) for _, rows in facts.groupby("relation")]
    return pd.concat(few).sort_values(FACT, ignore_index=True)


def _few_worded(facts: pd.DataFrame) -> pd.DataFrame:
    if len(facts) <= MOST_FACTS:
        return facts
    told = facts.loc[facts["subject"] != ""]
    several = [rows for _, rows in told.groupby(PARAPHRASE_KEY) if len(rows) > 1]
    return pd.concat([facts.head(0), *evenly(several, MOST_FACTS // 2)])


def _partners(facts: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return a mask of the pairs of facts of each kind, bool `[n_facts, n_facts]`."""
    wordings = facts["template"].where(
        facts["template"] != "",
        pd.Series(
            [
                prompt.replace(subject or "{}", "{}")
                for prompt, subject in zip(facts["prompt"], facts["subject"], strict=True)
            ]
        ),
    )
    relation = _equal(facts["relation"])
    told = (facts["subject"] != "").to_numpy()
    other = relation & told[:, None] & told
    one = other & _equal(facts["subject"]) & _equal(facts["target"])
    wording = _equal(wordings)
    masks = (one & ~wording, other & ~one & wording, other & ~one & ~wording, ~relation)
    return dict(zip(PAIRS, masks, strict=True))


def _equal(names: pd.Series) -> np.ndarray:
    codes, _ = pd.factorize(names)
    return codes[:, None] == codes


def _mean_of_facts(alike: np.ndarray) -> dict[str, float]:
    """Average over facts the mean over their partners, `[n_facts, n_partners]`; NaN is no partner."""
    there = ~np.isnan(alike)
    with_any = there.any(axis=1)
    means = np.nansum(alike[with_any], axis=1) / there[with_any].sum(axis=1)
    if not len(means):
        return {"n_facts": 0, **dict.fromkeys(("jaccard", "jaccard_low", "jaccard_high"), math.nan)}
    (middle,), (low,), (high,) = mean_and_interval(means[:, None])
    return {"n_facts": len(means), "jaccard": middle, "jaccard_low": low, "jaccard_high": high}


def _shares(own: NeuronSets) -> tuple[float, float]:
    """Return the ends of the bootstrap interval of the shared neurons' share, percent."""
    n_facts = len(own.facts)
    if n_facts < LEAST_FACTS:
        return math.nan, math.nan
    counts = resample_counts(n_facts).astype(np.float32)
    n_shared = np.zeros(len(counts))
    for start in range(0, own.listed.shape[1], 1024):  # sums of whole numbers are exact in any order
        some = own.listed[:, start : start + 1024].astype(np.float32)
        n_shared += (2 * (counts @ some) > n_facts).sum(axis=1)
    n_listed = counts @ own.listed.sum(axis=1).astype(np.float32) / n_facts
    (low,), (high,) = interval(100 * (n_shared / n_listed)[:, None])
    return float(low), float(high)


def _by_chance(study: Study, own: NeuronSets) -> float:
    """Return the expected number of shared neurons if each fact drew as many in every layer at random."""
    n_facts = len(own.facts)
    sizes = {"attention": study.manifest["n_heads"] * study.manifest["d_head"], "ffn": study.manifest["d_ff"]}
    expected = 0.0
    counted = own.neurons.assign(number=own.n_facts_listing)
    for _, rows in counted.groupby(["kind", "layer"]):
        size = sizes[rows["kind"].iloc[0]]
        expected += size * _more_than_half(n_facts, min(rows["number"].sum() / n_facts / size, 1.0))
    return expected


def _more_than_half(n: int, p: float) -> float:
    """Return the binomial probability of more than n / 2 successes in n trials."""
    if p >= 1:
        return 1.0
    logs = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(p)
        + (n - k) * math.log1p(-p)
        for k in range(n // 2 + 1, n + 1)
    )
    return min(sum(map(math.exp, logs)), 1.0)
