"""Bootstrap intervals of means over facts: the facts are resampled, the same ones for everything compared."""

from __future__ import annotations

from functools import cache

import numpy as np

RESAMPLES = 2000
INTERVAL = 0.95


@cache
def draws(n_facts: int) -> np.ndarray:
    """How often each resample has each fact, `[RESAMPLES, n_facts]`; the same on every call."""
    drawn = np.random.default_rng(0).integers(n_facts, size=(RESAMPLES, n_facts))
    counts = np.zeros((RESAMPLES, n_facts))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], drawn), 1)
    return counts


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Means of every resample, `[RESAMPLES, k]`, of values `[n_facts, k]`; NaN is left out."""
    counts, there = draws(len(values)), ~np.isnan(values)
    sums = _product(counts, np.where(there, values, 0.0))
    numbers = np.full_like(sums, len(values)) if there.all() else _product(counts, there.astype(float))
    with np.errstate(invalid="ignore"):
        return sums / numbers


def ends(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper end of the interval of every column, `[k]` each, of `[RESAMPLES, k]`."""
    tail = (1 - INTERVAL) / 2
    there = ~np.isnan(samples).all(axis=0)
    found = np.full((2, samples.shape[1]), np.nan)
    found[:, there] = np.nanquantile(samples[:, there], [tail, 1 - tail], axis=0)
    return found[0], found[1]


def _product(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The matrix product in one order of adding up, whatever the machine's number of threads."""
    return np.einsum("rn,nk->rk", counts, values, optimize=False)
