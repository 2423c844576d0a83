"""Agreement of methods' scores with exact patching of single nodes (docs/method.md#circuits)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnemoscope.circuit.measure import Baseline, ranked
from mnemoscope.circuit.scores import METHODS, exact_effects, scores_by_pair
from mnemoscope.results.resampling import interval, resample_counts

# Pairs on which single nodes are patched; each node takes one pass of all of them.
MOST_PAIRS = 20
COLUMNS = ("method", "pearson", "pearson_low", "pearson_high", "n_nodes")


def agreement(
    train: Baseline,
    scores: Mapping[str, Tensor],
    n_nodes: int,
    report: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Correlate scores with the fall of the logit difference when a node alone takes its ablation value.

    Half of the nodes are those with the largest absolute scores of the methods in turn, which are the ones
    that decide about a circuit; the others are drawn at random.

    Args:
        train: training pairs, of which the first `MOST_PAIRS` are run.
        scores: scores of all nodes by method, `[n_nodes]` each, on all training pairs; they choose nodes.
        n_nodes: number of nodes to patch.
        report: called with the numbers of nodes patched and of all.

    Returns:
        One row for each method: `method`, `pearson` with the ends `pearson_low` and `pearson_high` of its
        95 % bootstrap interval over pairs, and `n_nodes`.
    """
    runner = train.first(MOST_PAIRS).runner
    nodes = chosen_nodes(list(scores.values()), n_nodes)
    exact: list[Tensor] = []
    for done, some in enumerate(nodes.split(10)):
        exact.append(runner.by_pair(partial(exact_effects, runner, nodes=some)))
        if report is not None:
            report("exact patching", min(10 * (done + 1), len(nodes)), len(nodes))
    truth = torch.cat(exact, dim=1).numpy()
    counts = resample_counts(len(truth)) / len(truth)
    rows = []
    for name in scores:
        estimates = scores_by_pair(METHODS[name], runner, nodes).numpy()
        resampled = _pearson(counts @ estimates, counts @ truth)
        (low,), (high,) = interval(resampled[:, None])
        value = float(_pearson(estimates.mean(0)[None], truth.mean(0)[None])[0])
        rows.append((name, value, float(low), float(high), len(nodes)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def chosen_nodes(scores: list[Tensor], n_nodes: int) -> Tensor:
    """Return the nodes with the largest absolute scores of several methods, and as many random ones."""
    n_all = len(scores[0])
    best = torch.stack([ranked(each.abs()) for each in scores], dim=1).flatten()
    unique = dict.fromkeys(best[: n_nodes * len(scores)].tolist())
    top = torch.tensor(list(unique)[: n_nodes // 2], dtype=torch.long)
    drawn = torch.randperm(n_all, generator=torch.Generator().manual_seed(0))
    others = drawn[~torch.isin(drawn, top)][: min(n_nodes, n_all) - len(top)]
    return torch.cat([top, others]).sort().values


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlate rows, `[n, k]` each, to `[n]`."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
