"""Faithfulness and completeness of circuits, and the curve over sizes (docs/method.md#circuits)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnemoscope.circuit.nodes import NodeSpace
from mnemoscope.circuit.running import CircuitRunner
from mnemoscope.errors import OptionError
from mnemoscope.results.circuit import Ratio
from mnemoscope.results.columns import CIRCUIT_TABLES
from mnemoscope.results.resampling import interval, resampled_means

# Shares of all nodes at which circuits are measured, as in MIB.
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class Baseline:
    """Pairs with the logit differences between which a circuit's is placed.

    Attributes:
        runner: runs the pairs.
        model: logit differences of the whole model, `[n_pairs]`, nats.
        ablated: logit differences with every node at its ablation value, `[n_pairs]`, nats.
    """

    runner: CircuitRunner
    model: np.ndarray
    ablated: np.ndarray

    @staticmethod
    def of(runner: CircuitRunner, name: str) -> Baseline:
        """Run the pairs with all nodes and with none.

        Args:
            runner: the pairs.
            name: of the pairs, for messages.

        Raises:
            OptionError: the model does not prefer the answers by more than it does with all nodes ablated.
        """
        none = torch.zeros(runner.space.n_nodes, dtype=torch.bool)
        found = Baseline(runner, runner.differences(~none).numpy(), runner.differences(none).numpy())
        if not found.model.mean() > found.ablated.mean():
            raise OptionError(
                f"on the {name} pairs the model's mean logit difference is {found.model.mean():.3g} nats, "
                f"not above the {found.ablated.mean():.3g} with all nodes ablated, so no circuit explains "
                "it; take pairs that the model answers, other kinds of nodes, or another ablation"
            )
        return found

    def first(self, most: int) -> Baseline:
        """Return the first pairs, at most so many; their passes are counted anew."""
        return Baseline(self.runner.first(most), self.model[:most], self.ablated[:most])

    def faithfulness(self, kept: Tensor) -> float:
        """Compute F of kept nodes, `[n_nodes]`."""
        return self.share(self.runner.differences(kept).numpy())

    def share(self, values: np.ndarray) -> float:
        """Place logit differences `[n_pairs]` between those of no node (0) and of the model (1)."""
        ablated = self.ablated.mean()
        return float((values.mean() - ablated) / (self.model.mean() - ablated))

    def ratio(self, values: np.ndarray) -> Ratio:
        """Compute the share of logit differences `[n_pairs]`, with its bootstrap interval over pairs."""
        means = resampled_means(np.stack([values, self.model, self.ablated], axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = (means[:, 0] - means[:, 2]) / (means[:, 1] - means[:, 2])
        (low,), (high,) = interval(shares[:, None])
        return Ratio(self.share(values), float(low), float(high))

    def faithfulness_and_completeness(self, kept: Tensor) -> tuple[Ratio, Ratio]:
        """Measure F and K of kept nodes, `[n_nodes]`."""
        f, k = (self.ratio(self.runner.differences(nodes).numpy()) for nodes in (kept, ~kept))
        return f, k


def ranked(scores: Tensor) -> Tensor:
    """Return the numbers of nodes by descending score `[n_nodes]`, ties by number."""
    return scores.argsort(descending=True, stable=True)


def first(order: Tensor, size: int) -> Tensor:
    """Return the mask `[n_nodes]` of the first nodes of an order."""
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order[:size]] = True
    return mask


def smallest_reaching(train: Baseline, order: Tensor, faithfulness: float) -> int:
    """Return the number of best nodes with which F on training pairs reaches a value.

    Doubles the size until F is reached, then bisects: where F is not monotonic in between, a smaller size may
    reach it too.

    Raises:
        OptionError: no size reaches it.
    """
    low, high = 0, 1
    while train.faithfulness(first(order, high)) < faithfulness:
        if high == len(order):
            raise OptionError(
                f"no number of nodes reaches a faithfulness of {faithfulness}; give a lower one"
            )
        low, high = high, min(2 * high, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        if train.faithfulness(first(order, middle)) < faithfulness:
            low = middle
        else:
            high = middle
    return high


def curve_sizes(n_nodes: int) -> list[int]:
    """Return the sizes of a curve: 10, 30, 100, ... and the `SHARES` of all nodes, ascending."""
    counts = [digit * 10**power for power in range(1, 10) for digit in (1, 3)]
    return sorted({n for n in counts if n <= n_nodes} | {size_of(share, n_nodes) for share in SHARES})


def size_of(share: float, n_nodes: int) -> int:
    """Return the number of nodes of a share, at least 1."""
    return max(1, round(share * n_nodes))


def curve(
    baseline: Baseline,
    order: Tensor,
    sizes: Sequence[int],
    controls: int,
    report: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure the first nodes of an order at some sizes, beside random controls.

    Args:
        baseline: the test pairs.
        order: nodes, best first.
        sizes: numbers of nodes to keep, ascending.
        controls: number of draws of each control, whose F is averaged.
        report: called with the numbers of sizes done and of all.

    Returns:
        One row for each size, with the columns of `circuit_curve`.
    """
    space, rows = baseline.runner.space, []
    for done, size in enumerate(sizes, 1):
        kept = first(order, size)
        f, k = baseline.faithfulness_and_completeness(kept)
        row = {"size": size, "share": size / space.n_nodes}
        for name, ratio in (("faithfulness", f), ("completeness", k)):
            row |= {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
        drawn = list(zip(*(random_controls(space, kept, seed) for seed in range(controls)), strict=True))
        for name, masks in zip(("random", "matched"), drawn, strict=True):
            row[name] = float(np.mean([baseline.faithfulness(mask) for mask in masks]))
        rows.append(row)
        if report is not None:
            report("curve", done, len(sizes))
    return pd.DataFrame(rows).astype(CIRCUIT_TABLES["curve"])


def random_controls(space: NodeSpace, kept: Tensor, seed: int) -> Iterator[Tensor]:
    """Yield as many random nodes as are kept, of any place, then of the same kinds, layers and positions.

    Both may contain kept nodes: at large sizes there are not as many others.
    """
    generator = torch.Generator().manual_seed(seed)
    yield first(torch.randperm(space.n_nodes, generator=generator), int(kept.sum()))
    matched = torch.zeros_like(kept)
    for group in space.groups:
        for position in range(space.n_positions or 1):
            start = group.start + position * group.n_units
            wanted = int(kept[start : start + group.n_units].sum())
            if wanted:
                matched[start + torch.randperm(group.n_units, generator=generator)[:wanted]] = True
    yield matched


def areas(table: pd.DataFrame, n_nodes: int) -> dict[str, float]:
    """Compute CPR and CMD of a curve over `SHARES`, as means by the trapezoidal rule.

    Args:
        table: the curve; it has a row for the size of every share.
        n_nodes: number of all nodes.

    Returns:
        `cpr`, the area under F, and `cmd`, that of |1 - F|, on a logarithmic axis of shares, divided by its
        length; `cpr_linear` and `cmd_linear` on a linear axis.
    """
    by_size = table.set_index("size")["faithfulness"]
    f = by_size.loc[[size_of(share, n_nodes) for share in SHARES]].to_numpy()
    found = {}
    for ending, axis in (("", np.log(SHARES)), ("_linear", np.array(SHARES))):
        widths = np.diff(axis) / (axis[-1] - axis[0])
        for name, values in (("cpr", f), ("cmd", np.abs(1 - f))):
            found[name + ending] = float((widths * (values[1:] + values[:-1]) / 2).sum())
    return found
