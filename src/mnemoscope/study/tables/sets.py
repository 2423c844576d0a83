"""Which facts list which neurons: the sets that items 10 and the overlaps are about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from mnemoscope.study.opened import Study
from mnemoscope.study.schema import FACT, QUERY_NEURONS, VALUE_NEURONS
from mnemoscope.study.tables.over_facts import relations

LISTS = ("value", "query")
# What a neuron is found by; -1 where a kind has no such number.
NEURON = ["kind", "layer", "neuron", "head", "dim"]
# Facts of a relation whose sets are compared pair by pair.
MOST_FACTS = 200
_COLUMNS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Sets:
    """The neurons that each of some facts lists.

    Attributes:
        facts: rows of `facts`, `[n_facts]`.
        neurons: those in any list, with the columns of `NEURON`, `[n_neurons]`.
        listed: whether a fact lists a neuron, `[n_facts, n_neurons]`.
    """

    facts: pd.DataFrame
    neurons: pd.DataFrame
    listed: np.ndarray

    def of(self, facts: np.ndarray) -> Sets:
        """Of some facts, by their rows; neurons that none of them lists are left out."""
        listed = self.listed[facts]
        there = listed.any(axis=0)
        return Sets(
            self.facts.iloc[facts].reset_index(drop=True),
            self.neurons.loc[there].reset_index(drop=True),
            listed[:, there],
        )

    def of_relation(self, relation: str) -> Sets:
        """Of the facts of one relation."""
        return self.of(np.flatnonzero(self.facts["relation"] == relation))

    @cached_property
    def n_facts_listing(self) -> np.ndarray:
        """In how many facts' lists each neuron is, `[n_neurons]`."""
        return self.listed.sum(axis=0)

    @property
    def shared(self) -> np.ndarray:
        """Whether a neuron is in the lists of more than half of the facts, `[n_neurons]`."""
        return 2 * self.n_facts_listing > len(self.facts)

    def keys(self, chosen: np.ndarray) -> set[tuple[str | int, ...]]:
        """Some of the neurons as values that sets of other facts have too."""
        return set(self.neurons[chosen].itertuples(index=False, name=None))

    def jaccard(self) -> np.ndarray:
        """What two facts' sets share, as a part of what either has, `[n_facts, n_facts]`; NaN for none."""
        common = np.zeros((len(self.facts),) * 2, np.float32)
        # Sums of ones: exact whatever the order, so the product of any library will do.
        for start in range(0, self.listed.shape[1], _COLUMNS_AT_ONCE):
            some = self.listed[:, start : start + _COLUMNS_AT_ONCE].astype(np.float32)
            common += some @ some.T
        sizes = self.listed.sum(axis=1).astype(np.float32)
        either = sizes[:, None] + sizes - common
        return np.divide(common, either, out=np.full_like(common, np.nan), where=either > 0).astype(float)


def listings(study: Study, which: str, facts: pd.DataFrame) -> pd.DataFrame:
    """Which fact lists which neuron: `fact`, the columns of `NEURON`, and `score` (nats).

    Args:
        study: the study.
        which: `value` (the first value neurons of both kinds) or `query` (FFN query neurons).
        facts: whose lists, rows of `facts`.

    An attention neuron that is listed for several positions counts once a fact, its scores added up.
    """
    if which == "value":
        table = study.table(VALUE_NEURONS.name)
    else:
        table = study.table(QUERY_NEURONS.name).assign(kind="ffn", head=-1, dim=-1)
    table = table.loc[table[FACT].isin(facts[FACT]), [FACT, *NEURON, "score"]]
    numbers = NEURON[1:]
    table[numbers] = table[numbers].fillna(-1).astype("int64")
    return table.astype({"score": float}).groupby([FACT, *NEURON], as_index=False)["score"].sum()


def sets(study: Study, which: str, facts: pd.DataFrame) -> Sets:
    """The sets of facts; arguments as for `listings`."""
    found = listings(study, which, facts)
    neurons = found.loc[:, NEURON].drop_duplicates().sort_values(NEURON, ignore_index=True)
    column = found.merge(neurons.reset_index(names="column"), on=NEURON, how="left")["column"].to_numpy()
    listed = np.zeros((len(facts), len(neurons)), bool)
    listed[pd.Index(facts[FACT]).get_indexer(pd.Index(found[FACT])), column] = True
    return Sets(facts, neurons, listed)


def few_of_each(study: Study, found: Sets) -> Sets:
    """The sets of at most `MOST_FACTS` facts of each relation, at even distances, relation by relation."""
    chosen = []
    for relation in relations(study):
        rows = np.flatnonzero(found.facts["relation"] == relation)
        few = min(len(rows), MOST_FACTS)
        chosen.append(rows[np.arange(few) * len(rows) // few])
    return found.of(np.concatenate(chosen))
