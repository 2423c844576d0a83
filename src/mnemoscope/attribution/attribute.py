"""Attribution of one prediction: bounds, search, total effects, tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution import tables
from mnemoscope.attribution.grids import Grid, TokenReader
from mnemoscope.attribution.options import AttributionOptions
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.search import Pool, search
from mnemoscope.attribution.tables import with_experts
from mnemoscope.model.gradients import TotalEffects
from mnemoscope.results.columns import FFN_TABLES, TABLES
from mnemoscope.results.targets import Cost


def best_by_value(grid: Grid, pool: Pool) -> Tensor:
    """Return flat indices of the parts that a pool wants if their values were their scores, best first."""
    size, span = grid.n_columns * grid.n_coefficients, slice(pool.first, pool.stop)
    place = torch.arange(size, device=grid.base.device).view(grid.shape[1:])[:, span].flatten()
    kept_index, kept_effect = [], []
    for layer in range(grid.n_layers):
        effect = grid.values(layer)[:, span].flatten() * pool.sign
        order = effect.argsort(descending=True, stable=True)
        order = order[effect[order] != 0][: pool.k]  # silent and absent neurons have no effect
        kept_index.append(place[order] + layer * size)
        kept_effect.append(effect[order])
    order = torch.cat(kept_effect).argsort(descending=True, stable=True)[: pool.k]
    return torch.cat(kept_index)[order]


def of_ffn_neurons(effects: TotalEffects, grid: Grid) -> Grid:
    """Return the effects of every FFN neuron."""
    return replace(grid, values=lambda layer: effects.ffn[layer].sum(0)[:, None])


def of_attention_neurons(effects: TotalEffects, grid: Grid) -> Grid:
    """Return the effects of every attention neuron at each source position, then of their sum."""

    def of_layer(layer: int) -> Tensor:
        by_source = effects.attention_by_source(layer).flatten(0, 1)
        return torch.cat([by_source, by_source.sum(-1, keepdim=True)], dim=-1)

    return replace(grid, values=of_layer)


def of_heads_at_positions(effects: TotalEffects, grid: Grid) -> Grid:
    """Return the effects of every head at each source position."""
    return replace(grid, values=lambda layer: effects.attention_by_source(layer).sum(1).flatten()[:, None])


# Progress: name of the parts, number of columns scored, number of columns in all.
Report = Callable[[str, int, int], None]

# Share of the neurons, those with the widest intervals, that `neurons="bounds"` scores exactly.
EXACT_SHARE = 0.02
# The most heads at positions to list in each direction; each costs as much as a neuron.
N_POSITIONS = 30
# Names of the kinds of neurons in progress, by the first table of each.
_LABELS = {"ffn_neurons": "FFN neurons", "attention_neurons": "attention neurons"}
# Which coefficients of a column belong to each table.
Spans = dict[str, tuple[int, int]]
# Flat indices of parts and their scores, best first.
Best = tuple[Tensor, Tensor]


class TopKFinder:
    """Search for the best parts of a prediction: by bounds, by scoring every one, or by total effect.

    Lists are named after the tables of the result, `suppressing_` in front for the lowest.

    Attributes:
        tables: the best parts, by table.
        intervals: bounds of every neuron `[n_layers, n_columns, n_coefficients]`, by table.
        costs: cost of each search, by table.
        tolerance: largest rounding error that a score in `tables` may have, nats.
    """

    def __init__(
        self, prediction: TargetPrediction, options: AttributionOptions, report: Report | None
    ) -> None:
        """See `attribute`."""
        self.options = options
        self.signs = {"": 1, "suppressing_": -1} if options.suppressing else {"": 1}
        self.report = report
        self.scorer = prediction.scorer()
        self._prediction = prediction
        self.tables: dict[str, pd.DataFrame] = {}
        self.intervals: dict[str, tuple[Tensor, Tensor]] = {}
        self.costs: dict[str, Cost] = {}
        self.tolerance = 0.0

    def find(
        self, grid: Grid, totals: Grid | None, top: int, spans: Spans, reader: TokenReader | None = None
    ) -> None:
        """Find the best parts of each table; score or bound every neuron if the options say so.

        Args:
            grid: the parts.
            totals: their total effects, if they are computed.
            top: number of parts of each direction.
            spans: the tables and which coefficients of a column belong to them; the first is a key of
                `_LABELS` if the parts are neurons.
            reader: is shown the columns that are projected on the way.
        """
        prediction, kind, every = self._prediction, next(iter(spans)), None
        neurons = self.options.neurons if kind in _LABELS else "top"
        pools = {
            prefix + table: Pool(top, sign, *span)
            for table, span in spans.items()
            for prefix, sign in self.signs.items()
        }
        if neurons == "all":
            every = self.scorer.all(grid, partial(self._report, kind, grid))
            self.intervals[kind] = every, every
        if totals is not None and self.options.order == "total":
            chosen = {table: best_by_value(totals, pool) for table, pool in pools.items()}
            scored = torch.cat(list(chosen.values())).unique()
            scores = self.scorer.chosen(grid, scored, reader)
            best = {t: (index, scores[torch.searchsorted(scored, index)]) for t, index in chosen.items()}
        else:
            if every is None:
                wanted = list(pools.values())
                scored = search(grid, wanted, prediction.coarse, lambda: prediction.fine, self.scorer, reader)
            else:
                scored, scores = grid.parts(grid.present), every.flatten(0, 1)[grid.present]
                for pool in pools.values():
                    pool.add(scored, scores, scores)
            best = {table: pool.best() for table, pool in pools.items()}
        self._keep(grid, totals, best)
        if neurons == "bounds":
            self.intervals[kind] = self._intervals(kind, grid)
        coefficient = scored % grid.n_coefficients
        for table, (first, stop) in spans.items():
            n_parts = len(grid.present) * (stop - first)
            n_scored = int(((coefficient >= first) & (coefficient < stop)).sum())
            self.costs[table] = Cost(n_parts, n_scored if every is None else n_parts)

    def allow_rounding(self, grid: Grid, index: Tensor) -> None:
        """Raise the tolerance to the rounding errors of exact scores of parts, `[n]` ascending."""
        if len(index):
            self.tolerance = max(self.tolerance, float(self._prediction.coarse.errors(grid, index).max()))

    def _keep(self, grid: Grid, totals: Grid | None, best: dict[str, Best]) -> None:
        """Tabulate of each list the parts ordered above 0, or below 0 where it lists suppressing ones.

        Silent neurons change nothing: they stand between the two, and no list goes beyond them.
        """
        self.allow_rounding(grid, torch.cat([index for index, _ in best.values()]).unique())
        for table, (index, score) in best.items():
            total = torch.full_like(score, torch.nan) if totals is None else totals.values_of(index)
            order = total if totals is not None and self.options.order == "total" else score
            rows = order < 0 if table.startswith("suppressing_") else order > 0
            tabulate = tables.OF_PARTS[table.removeprefix("suppressing_")]
            of_rows = tables.effects(score[rows], total[rows])
            self.tables[table] = tabulate(self._prediction, index[rows], of_rows)

    def _intervals(self, kind: str, grid: Grid) -> tuple[Tensor, Tensor]:
        """Bound every part; score exactly those with the widest intervals."""
        low, high = (torch.zeros(grid.size, device=grid.base.device) for _ in range(2))
        for index, lower, upper in self._prediction.fine.all(grid):
            low[index], high[index] = lower, upper
        widest = (high - low).topk(max(1, int(EXACT_SHARE * len(low)))).indices.sort().values
        scores, errors = self.scorer.chosen(grid, widest), self._prediction.coarse.errors(grid, widest)
        low[widest], high[widest] = scores - errors, scores + errors
        self._report(kind, grid, len(grid.present))
        return low.view(grid.shape), high.view(grid.shape)

    def _report(self, kind: str, grid: Grid, done: int) -> None:
        """Report how many columns of a grid are done."""
        if self.report is not None:
            self.report(_LABELS[kind], done, len(grid.present))


@dataclass(frozen=True, eq=False)
class Attributed:
    """Tables of one prediction, or of sums over several.

    Attributes:
        tables: by name.
        costs: cost of each search, by table.
        tolerance: largest rounding error that a score in the tables may have, nats.
    """

    tables: dict[str, pd.DataFrame]
    costs: dict[str, Cost]
    tolerance: float


def attribute(
    prediction: TargetPrediction, options: AttributionOptions, report: Report | None = None
) -> Attributed:
    """Score, search and tabulate the parts of a prediction.

    Args:
        prediction: the prediction.
        options: the options.
        report: called with the progress through all neurons.
    """
    shared = prediction.shared
    n_tokens, reader = len(prediction.tokens), shared.reader if prediction.focus.is_all else None
    ffn, attention = shared.ffn_neurons, shared.attention_neurons
    positions = shared.heads_at_positions
    total = prediction.total_effects(linearised=options.by == "relp") if options.effects else None
    of_ffn = total and of_ffn_neurons(total, ffn)
    of_attention = total and of_attention_neurons(total, attention)
    of_positions = total and of_heads_at_positions(total, positions)

    finder = TopKFinder(prediction, options, report)
    finder.find(ffn, of_ffn, options.top, {"ffn_neurons": (0, 1)}, reader)
    spans = {"attention_neurons": (0, n_tokens), "attention_neurons_summed": (n_tokens, n_tokens + 1)}
    finder.find(attention, of_attention, options.top, spans)
    finder.find(positions, of_positions, min(options.top, N_POSITIONS), {"heads_by_position": (0, 1)})

    layer_scores = shared.base.layer_scores(prediction.values)
    head_scores = finder.scorer.all(shared.heads)[..., 0]
    of_layers = torch.full_like(layer_scores, torch.nan) if total is None else total.layers
    of_heads = torch.full_like(head_scores, torch.nan) if total is None else total.heads
    made = {
        "layers": tables.sorted_best_first(tables.layers(layer_scores, of_layers), options.order),
        "heads": tables.sorted_best_first(tables.heads(head_scores, of_heads), options.order),
        **finder.tables,
    }
    if finder.intervals:
        made["ffn_scores"] = tables.ffn_scores(prediction, *finder.intervals["ffn_neurons"])
        made["attention_scores"] = tables.attention_scores(prediction, *finder.intervals["attention_neurons"])
    made |= {table: tables.empty(table) for table in TABLES if table not in made}
    for table in FFN_TABLES:
        made[table] = with_experts(made[table], prediction.language_model.structure)
    finder.allow_rounding(shared.heads, torch.arange(shared.heads.size, device=shared.heads.base.device))
    of_states = 2 * float(prediction.predicted.rounding.max())
    return Attributed(made, finder.costs, max(finder.tolerance, of_states))
