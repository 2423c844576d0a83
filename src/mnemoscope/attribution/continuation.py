"""Targets of several tokens: sums of scores over their predictions (docs/method.md#several-tokens).

Each prediction has its own base states and coefficients. The neurons with the highest sums need not be among
the best of any single prediction; they are searched for in the same way, because sums of bounds bound sums of
scores. Predictions of a contrast are subtracted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution import tables
from mnemoscope.attribution.attribute import Attributed
from mnemoscope.attribution.bounds import Bounder
from mnemoscope.attribution.grids import Grid, Observer
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.scores import Scorer
from mnemoscope.attribution.search import Pool, search
from mnemoscope.attribution.tables import with_experts
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import TOP_SUMS
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.targets import Cost, Provenance, Target

# One grid for each prediction, with the same columns taking part in all of them.
Grids = tuple[Grid, ...]


@dataclass(frozen=True)
class SummedBounds:
    """Bounds of sums over predictions.

    Float32 addition is monotonic, so sums of bounds in one order hold sums of scores in the same order,
    rounding included.

    Attributes:
        bounders: of each prediction. Those of log probabilities have one budget and as many tokens, so that
            they take the same columns at a time.
        signs: 1 for each prediction that is added, -1 for one that is subtracted.
    """

    bounders: tuple[Bounder, ...]
    signs: tuple[int, ...]

    def all(self, grids: Grids, /) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield flat indices, lower and upper bounds, `[n, 1]` each, in ascending order."""
        pairs = list(zip(self.bounders, grids, strict=True))
        # Log-odds, of the first prediction if of any, would take other columns at a time.
        kind = type(self.bounders[-1])
        walks = {i: bounder.all(grid) for i, (bounder, grid) in enumerate(pairs) if type(bounder) is kind}
        for found in zip(*walks.values(), strict=True):
            known = dict(zip(walks, found, strict=True))
            index = found[0][0]
            bounds = []
            for i, (bounder, grid) in enumerate(pairs):
                lower, upper = known[i][1:] if i in known else bounder.chosen(grid, index.flatten())
                bounds.append((lower.view(index.shape), upper.view(index.shape)))
            yield index, *self._sums(bounds)

    def chosen(self, grids: Grids, index: Tensor, /) -> tuple[Tensor, Tensor]:
        """Bound the parts with these ascending flat indices from below and above, `[n]` each."""
        each = (bounder.chosen(grid, index) for bounder, grid in zip(self.bounders, grids, strict=True))
        return self._sums(each)

    def _sums(self, bounds: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Add lower and upper bounds; those that are subtracted change places."""
        signed = [
            (lower, upper) if sign > 0 else (-upper, -lower)
            for sign, (lower, upper) in zip(self.signs, bounds, strict=True)
        ]
        lower, upper = zip(*signed, strict=True)
        return in_order(lower), in_order(upper)


@dataclass(frozen=True)
class SummedScores:
    """Exact sums over predictions.

    Attributes:
        scorers: of each prediction.
        signs: as of `SummedBounds`.
    """

    scorers: tuple[Scorer, ...]
    signs: tuple[int, ...]

    def chosen(self, grids: Grids, index: Tensor, observer: Observer | None = None, /) -> Tensor:
        """Sum the scores of parts with these ascending flat indices, `[n]`.

        An observer gets values at the scale of the first prediction's final norm.
        """
        return in_order(self.each(grids, index, observer))

    def each(self, grids: Grids, index: Tensor, observer: Observer | None = None) -> tuple[Tensor, ...]:
        """Return what each prediction adds to the sums of the same parts, `[n]` each."""
        observers = (observer, *[None] * (len(self.scorers) - 1))
        each = zip(self.signs, self.scorers, grids, observers, strict=True)
        return tuple(sign * scorer.chosen(grid, index, seen) for sign, scorer, grid, seen in each)


def summed_neurons(
    predictions: Sequence[TargetPrediction], signs: tuple[int, ...], top: int, suppressing: bool
) -> Attributed:
    """Find the neurons with the highest and the lowest sums of scores.

    Args:
        predictions: the predictions to sum over, of one model and made with one budget; only the first may
            be of log-odds.
        signs: 1 for each that is added, -1 for one that is subtracted.
        top: number of each kind and direction.
        suppressing: whether to find the lowest too.
    """
    scorer = SummedScores(tuple(prediction.scorer() for prediction in predictions), signs)
    coarse = SummedBounds(tuple(prediction.coarse for prediction in predictions), signs)
    shared = [prediction.shared for prediction in predictions]
    of_kinds = {
        "ffn_neurons": same_columns([each.ffn_neurons for each in shared]),
        "attention_neurons_summed": same_columns([each.attention_neurons_summed for each in shared]),
    }
    made: dict[str, pd.DataFrame] = {}
    costs: dict[str, Cost] = {}
    tolerances = [0.0]
    for name, grids in of_kinds.items():
        pools = {"": Pool(top, 1, 0, 1)}
        if suppressing:
            pools["suppressing_"] = Pool(top, -1, 0, 1)
        scored = search(
            grids,
            list(pools.values()),
            coarse,
            lambda: SummedBounds(tuple(prediction.fine for prediction in predictions), signs),
            scorer,
            shared[0].reader if name == "ffn_neurons" else None,
        )
        costs[name] = Cost(len(grids[0].present), len(scored))
        for prefix, pool in pools.items():
            index, total = pool.best()
            made[prefix + name] = _table(predictions[0], name, grids, scorer, index, total)
            if len(index):
                bounders = zip(coarse.bounders, grids, strict=True)
                errors = in_order(bounder.errors(grid, index.sort().values) for bounder, grid in bounders)
                tolerances.append(float(errors.max()))
    return Attributed(made, costs, max(tolerances))


def _table(
    first: TargetPrediction, name: str, grids: Grids, scorer: SummedScores, index: Tensor, total: Tensor
) -> pd.DataFrame:
    """Tabulate neurons with what each prediction adds to their sums, `[n]`, best first."""
    ascending, place = index.sort()
    scores = torch.stack([each[place.argsort()] for each in scorer.each(grids, ascending)])
    coefficients = torch.stack([grid.values_of(index) for grid in grids])
    layer, column, _ = grids[0].locate(index)
    is_ffn = name == "ffn_neurons"
    places = {"neuron": column} if is_ffn else tables.head_and_dim(first.language_model.structure, column)
    columns = {"layer": layer, **places, "direct": total}
    columns |= {f"direct_{number}": row for number, row in enumerate(scores)}
    columns |= {f"coefficient_{number}": row for number, row in enumerate(coefficients)}
    if not is_ffn:
        return tables.frame(**columns)
    tokens = tables.promoted_and_demoted(first, index, tables.at_largest(scores, coefficients))
    return with_experts(tables.frame(**columns, **tokens), first.language_model.structure)


def summed_table(
    complete: Sequence[pd.DataFrame], signs: Sequence[int], names: Sequence[str]
) -> pd.DataFrame:
    """Join complete tables of the same parts, one for each prediction, with their sums, best first.

    Args:
        complete: with the columns `names` and `direct`.
        signs: 1 for each table that is added, -1 for one that is subtracted.
        names: the columns that name a part.
    """
    each = {
        f"direct_{number}": sign * table.set_index(list(names))["direct"].sort_index()
        for number, (sign, table) in enumerate(zip(signs, complete, strict=True))
    }
    table = pd.DataFrame(each)
    table.insert(0, "direct", table.sum(axis=1))
    return tables.sorted_best_first(table.reset_index(), "direct")


def same_columns(grids: Sequence[Grid]) -> Grids:
    """Return the grids with all columns that take part in any of them taking part in every one."""
    if all(grid.active is None for grid in grids):
        return tuple(grids)
    present = torch.cat([grid.present for grid in grids]).unique()
    active = torch.stack(grids[0].split(present), dim=1)
    return tuple(replace(grid, active=active) for grid in grids)


def in_order(values: Iterable[Tensor]) -> Tensor:
    """Add tensors one after the other."""
    return reduce(torch.add, values)


def put_together(
    prompt: str,
    text: str,
    against: str | None,
    shared: tuple[Target, ...],
    attributions: Sequence[Attribution],
    signs: tuple[int, ...],
    summed: Attributed,
    provenance: Provenance,
) -> ContinuationAttribution:
    """Join the results of each token.

    Args:
        prompt: the prompt.
        text: the target's text.
        against: text of the answer that it is compared with; None for log probability.
        shared: tokens that both answers begin with, whose log probabilities cancel.
        attributions: of each prediction, those of the contrast last.
        signs: 1 for each prediction that is added, -1 for each that is subtracted.
        summed: the neurons with the highest and lowest sums.
        provenance: model, versions and options.
    """
    tables, n_added = summed.tables, signs.count(1)
    empty = {name: tables[name.removeprefix("suppressing_")].head(0) for name in TOP_SUMS}
    # Layers and heads are sums of the single attributions' scores.
    tolerance = sum(each.tolerance or 0.0 for each in attributions)
    return ContinuationAttribution(
        prompt=prompt,
        text=text,
        against=against,
        shared=shared,
        attributions=tuple(attributions[:n_added]),
        against_attributions=tuple(attributions[n_added:]),
        layers=summed_table([each.layers for each in attributions], signs, ("layer", "kind")),
        heads=summed_table([each.heads for each in attributions], signs, ("layer", "head")),
        certified=all(each.certified for each in attributions),
        tolerance=max(summed.tolerance, tolerance),
        costs=summed.costs,
        provenance=provenance,
        **(empty | tables),
    )
