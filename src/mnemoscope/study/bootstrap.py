"""Means over the facts of each relation, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from mnemoscope.results.resampling import interval, resampled_means
from mnemoscope.study.columns import FACT
from mnemoscope.study.facts import RELATIONS
from mnemoscope.study.results import Study

ALL = "all"  # stands for all relations together
LEAST_FACTS = 3  # means of fewer facts have no interval


def order_relations(relations: Iterable[str]) -> list[str]:
    """Order relations as the paper does if all are the paper's, else by name."""
    names = set(relations)
    return [name for name in RELATIONS if name in names] if names <= set(RELATIONS) else sorted(names)


def relations_of(study: Study) -> list[str]:
    """Return the relations of the measured facts, in order."""
    return order_relations(study.known["relation"])


def fact_groups(study: Study) -> Iterator[tuple[str, pd.Index]]:
    """Yield the name and fact numbers of all relations together, then of each."""
    known = study.known
    yield ALL, pd.Index(known[FACT])
    for relation in relations_of(study):
        yield relation, pd.Index(known.loc[known["relation"] == relation, FACT])


def sorted_rows(
    table: pd.DataFrame, orders: Mapping[str, Sequence[str]], then: Sequence[str], ascending: bool = True
) -> pd.DataFrame:
    """Sort rows by columns of names, each in an order of its own, then by further columns."""
    keys = table.assign(**{name: pd.Categorical(table[name], order) for name, order in orders.items()})
    upwards = [True] * len(orders) + [ascending] * len(then)
    rows = keys.sort_values([*orders, *then], ascending=upwards).index
    return table.loc[rows].reset_index(drop=True)


def mean_and_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means and ends of intervals, `[k]` each, of values `[n_facts, k]`; NaN counts as no value."""
    n_values = (~np.isnan(values)).sum(axis=0)
    found = np.full(values.shape[1], np.nan)
    np.divide(np.nansum(values, axis=0), n_values, out=found, where=n_values > 0)
    return found, *_where_enough(n_values, resampled_means(values))


def relative_drop(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """Return the fall of a mean over facts in percent, and the ends of its interval, of `[n_facts]` each."""
    means = resampled_means(np.stack([before, after], axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        drop = 100 * (1 - after.mean() / before.mean())
        drops = 100 * (1 - means[:, 1:] / means[:, :1])
    low, high = _where_enough(np.array([len(before)]), drops)
    return float(drop), float(low[0]), float(high[0])


def means_by_relation(
    study: Study, table: pd.DataFrame, cells: Sequence[str], value: str, absent: float = np.nan
) -> pd.DataFrame:
    """Average a column over facts, for all relations together and for each.

    Args:
        study: whose facts.
        table: one row for each fact and cell.
        cells: the columns that define a cell.
        value: the column to average.
        absent: the value of a row that is missing.

    Returns:
        The columns `relation`, the cells, `n_facts` with a value, `value`, `value_low` and `value_high`.
    """
    wide = table.pivot(index=FACT, columns=list(cells), values=value).sort_index(axis=1)
    found = []
    for relation, facts in fact_groups(study):
        values = wide.reindex(facts).to_numpy(dtype=float, na_value=np.nan)
        values = np.where(np.isnan(values), absent, values)
        means, low, high = mean_and_interval(values)
        rows = wide.columns.to_frame(index=False).assign(n_facts=(~np.isnan(values)).sum(axis=0))
        rows = rows.assign(**{value: means, f"{value}_low": low, f"{value}_high": high})
        rows.insert(0, "relation", relation)
        found.append(rows)
    return pd.concat(found, ignore_index=True)


def _where_enough(n_values: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = interval(samples)
    enough = n_values >= LEAST_FACTS
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)
