"""Bootstrap of means over a sample's members; deterministic."""

from __future__ import annotations

from functools import cache

import numpy as np

RESAMPLES = 2000
INTERVAL = 0.95


@cache
def resample_counts(n: int) -> np.ndarray:
    """Return how often each resample has each member, `[RESAMPLES, n]`; deterministic."""
    drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    counts = np.zeros((RESAMPLES, n))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], drawn), 1)
    return counts


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each resample, `[RESAMPLES, k]`, of values `[n, k]`; NaN is left out."""
    counts, there = resample_counts(len(values)), ~np.isnan(values)
    sums = _product(counts, np.where(there, values, 0.0))
    numbers = np.full_like(sums, len(values)) if there.all() else _product(counts, there.astype(float))
    with np.errstate(invalid="ignore"):
        return sums / numbers


def _product(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Multiply matrices with a fixed order of summation, whatever the number of threads."""
    return np.einsum("rn,nk->rk", counts, values, optimize=False)


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper end of each column's interval, `[k]` each, of samples `[RESAMPLES, k]`."""
    tail = (1 - INTERVAL) / 2
    there = ~np.isnan(samples).all(axis=0)
    found = np.full((2, samples.shape[1]), np.nan)
    found[:, there] = np.nanquantile(samples[:, there], [tail, 1 - tail], axis=0)
    return found[0], found[1]
