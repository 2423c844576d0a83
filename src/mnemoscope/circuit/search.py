"""Greedy search for a small circuit that is faithful and complete (docs/method.md#circuits).

A round differentiates the logit differences in two contexts: with the circuit alone, where the first-order
effect of a node is the change of F when it joins or leaves, and with everything but the circuit, where it is
that of K. RelP's linearised backward pass is taken in both. Each round measures F and K exactly, so that
estimates choose nodes but never decide whether the circuit is good enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.circuit.measure import Baseline, first, smallest_reaching
from mnemoscope.circuit.running import Values, site_values
from mnemoscope.circuit.scores import by_site, gradients

# The search ends with F within BAND of 1 and K within LARGEST_K of 0 on training pairs.
BAND, LARGEST_K = 0.05, 0.2
# Largest number of training pairs that a round runs.
MOST_PAIRS = 100
MOST_ROUNDS = 40
# Removals that failed before the search ends.
_MOST_FAILURES = 3


@dataclass(frozen=True, eq=False)
class _Round:
    """Circuit with its measured F and K, and estimates of them after a node joins or leaves.

    Attributes:
        kept: the circuit, `[n_nodes]`.
        f, k: faithfulness and completeness on the pairs of the search.
        f_after, k_after: estimates with one node toggled, `[n_nodes]`.
    """

    kept: Tensor
    f: float
    k: float
    f_after: Tensor
    k_after: Tensor

    @property
    def error(self) -> float:
        """Distance of F from 1 plus that of K from 0."""
        return abs(1 - self.f) + abs(self.k)

    @property
    def errors_after(self) -> Tensor:
        """Estimated errors with one node toggled, `[n_nodes]`."""
        return (1 - self.f_after).abs() + self.k_after.abs()

    @property
    def is_good(self) -> bool:
        """Whether F and K are near enough to 1 and 0."""
        return abs(1 - self.f) <= BAND and abs(self.k) <= LARGEST_K


def greedy(
    train: Baseline, order: Tensor, size: int | None, report: Callable[[str, int, int], None] | None
) -> Tensor:
    """Search for the smallest circuit with F near 1 and K near 0.

    Begins with the best half of the nodes that a ranking needs for F of 1 - `BAND`, or of `size`.

    Args:
        train: training pairs; the first `MOST_PAIRS` are run, with 2 forward and 2 backward passes a round.
        order: nodes ranked by RelP.
        size: number of nodes at which to stop; None stops within the band.
        report: called with the number of rounds done and the largest number.

    Returns:
        Numbers of the nodes, those that raise F most in the circuit first; the circuit of the least error
        where no round was within the band.
    """
    pairs = train.first(MOST_PAIRS)
    runner = pairs.runner
    clean = [site_values(runner.language_model, runner.space, batch.clean) for batch in runner.batches]
    begin = size or smallest_reaching(pairs, order, 1 - BAND)
    now = _round(pairs, clean, first(order, begin // 2))
    best, needed = now, torch.zeros_like(now.kept)
    for number in range(1, MOST_ROUNDS if size is None else begin + 1):
        if report is not None:
            report("greedy", number, MOST_ROUNDS if size is None else begin)
        if size is not None and int(now.kept.sum()) >= size:
            break
        if size is None and best.is_good:
            kept = _toggled(best, ~best.kept | needed)
        else:
            kept = _toggled(now, torch.zeros_like(needed) if size is None else now.kept)
        if torch.equal(kept, now.kept) or int(needed.sum()) == _MOST_FAILURES:
            break
        now = _round(pairs, clean, kept)
        if size is None and best.is_good and not now.is_good:
            # The node that left was needed after all.
            needed |= best.kept & ~now.kept
        elif size is not None or now.is_good or now.error < best.error:
            best = now
    train.runner.passes += runner.passes
    train.runner.backward_passes += runner.backward_passes
    chosen = torch.nonzero(best.kept)[:, 0]
    effect = (best.f - best.f_after)[chosen]
    return chosen[effect.argsort(descending=True, stable=True)]


def _toggled(now: _Round, fixed: Tensor) -> Tensor:
    """Toggle the node that is estimated to leave the least error; none where all are fixed."""
    kept = now.kept.clone()
    errors = now.errors_after.masked_fill(fixed, torch.inf)
    if bool(errors.isfinite().any()):
        best = int(errors.argmin())
        kept[best] = ~kept[best]
    return kept


def _round(pairs: Baseline, clean: list[Values], kept: Tensor) -> _Round:
    f, of_circuit = _effects(pairs, clean, kept)
    k, of_others = _effects(pairs, clean, ~kept)
    joins = torch.where(kept, -1.0, 1.0)
    return _Round(kept, f, k, f + joins * of_circuit, k - joins * of_others)


def _effects(pairs: Baseline, clean: list[Values], kept: Tensor) -> tuple[float, Tensor]:
    """Measure F of kept nodes and the first-order effect on it of every node, `[n_nodes]`.

    Nodes that are not kept have their ablation value, and are taken to return to their value in the clean
    prompt.
    """
    runner, space = pairs.runner, pairs.runner.space
    masks = space.masks(kept)
    total, differences = torch.zeros(space.n_nodes, dtype=torch.float64), []
    for batch, own in zip(runner.batches, clean, strict=True):
        with runner.keeping(batch, kept):
            found = gradients(runner, batch, linearised=True)
        values = by_site(space, found.activations)
        slopes = by_site(space, found.gradients)
        effects = {
            key: (torch.where(masks[key].to(now.device), now, own[key]) - batch.ablated[key]) * slopes[key]
            for key, now in values.items()
        }
        total += space.gather(effects).double().sum(0).cpu()
        differences.append(found.metric)
    runner.passes += len(runner.pairs)
    runner.backward_passes += len(runner.pairs)
    scale = len(runner.pairs) * float(pairs.model.mean() - pairs.ablated.mean())
    return pairs.share(torch.cat(differences).double().cpu().numpy()), (total / scale).float()
