"""From a trace to a result: base states, bounds, search, tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution import parts, tables
from mnemoscope.attribution.base import BaseStates
from mnemoscope.attribution.bounds import Bounder, Geometry, split_tail
from mnemoscope.attribution.parts import Grid
from mnemoscope.attribution.reading import TokenReader
from mnemoscope.attribution.result import TABLES, Cost
from mnemoscope.attribution.scoring import Observer, Scorer
from mnemoscope.attribution.search import Pool, search
from mnemoscope.model.capture import Trace
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.readout import FrozenReadout

Neurons = Literal["top", "all", "bounds"]
# Told what is being scored, how many columns are done and how many there are.
Report = Callable[[str, int, int], None]

# Tokens summed exactly by the first bound of every part and by the second of those left.
COARSE_TOKENS = 32
FINE_TOKENS = 1024
# Share of the neurons, those with the widest intervals, that `neurons="bounds"` scores exactly.
EXACT_SHARE = 0.02
# The most heads at positions to list in each direction; each costs as much as a neuron.
N_POSITIONS = 30
# How many promoted and demoted tokens are listed with an FFN neuron.
N_READ = 10


# Flat indices of parts and their scores, best first.
Best = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Prediction:
    """One prediction to attribute, read out and ready to be scored.

    Attributes:
        language_model: the model.
        geometry: what bounds need to know of its weights.
        tokens: texts of the prompt's tokens.
        trace: of the prompt.
        readout: frozen at its final state.
        base: what the states along the way predict.
        target: token id.
        budget: bytes that temporary tensors may take.
    """

    language_model: LanguageModel
    geometry: Geometry
    tokens: tuple[str, ...]
    trace: Trace
    readout: FrozenReadout
    base: BaseStates
    target: int
    budget: int

    def scorer(self) -> Scorer:
        """Exact scores."""
        return Scorer(self.readout, self.base.log_probabilities, self.target, self.budget)

    def bounder(self, n_tokens: int) -> Bounder:
        """Bounds that sum so many tokens of every base state exactly."""
        tail = split_tail(self.base.log_probabilities, self.readout.unembedding, n_tokens)
        return Bounder(self.geometry, self.readout, tail, self.target, self.budget)


class Explorer:
    """Finds the best parts of a prediction, by bounds or by scoring every one.

    What it finds is named after the tables of the result, `suppressing_` in front for the lowest.

    Attributes:
        best: indices and scores, by table.
        intervals: bounds of every part `[n_layers, n_columns, n_coefficients]`, by kind.
        costs: what each search cost, by table.
    """

    def __init__(
        self, prediction: Prediction, neurons: Neurons, suppressing: bool, report: Report | None
    ) -> None:
        """See `attribute`."""
        self.neurons = neurons
        self.signs = {"": 1, "suppressing_": -1} if suppressing else {"": 1}
        self.report = report
        self.scorer = prediction.scorer()
        self.coarse = prediction.bounder(COARSE_TOKENS)
        self._prediction = prediction
        self.best: dict[str, Best] = {}
        self.intervals: dict[str, tuple[Tensor, Tensor]] = {}
        self.costs: dict[str, Cost] = {}

    @cached_property
    def fine(self) -> Bounder:
        """Tighter bounds, made when a search needs them."""
        return self._prediction.bounder(FINE_TOKENS)

    def find(
        self, grid: Grid, top: int, spans: dict[str, tuple[int, int]], observer: Observer | None = None
    ) -> None:
        """Find the best parts of each table by bounds.

        Args:
            grid: the parts.
            top: how many of each direction.
            spans: the tables and which coefficients of a column belong to them.
            observer: shown the values of what is scored, the best among them.
        """
        pools = {
            prefix + table: Pool(top, sign, *span)
            for table, span in spans.items()
            for prefix, sign in self.signs.items()
        }
        scored = search(grid, list(pools.values()), self.coarse, lambda: self.fine, self.scorer, observer)
        coefficient = scored % grid.n_coefficients
        self.best |= {table: pool.best() for table, pool in pools.items()}
        for table, (first, stop) in spans.items():
            exact = int(((coefficient >= first) & (coefficient < stop)).sum())
            self.costs[table] = Cost(_count(grid, (first, stop)), exact)

    def explore(
        self,
        kind: str,
        grid: Grid,
        top: int,
        spans: dict[str, tuple[int, int]],
        observer: Observer | None = None,
    ) -> None:
        """Find the best neurons and, if every neuron is asked for, score or bound all of a kind."""
        if self.neurons != "all":
            self.find(grid, top, spans, observer)
            if self.neurons == "bounds":
                self.intervals[kind] = self._intervals(kind, grid)
            return
        scores = self.scorer.all(grid, self._progress(kind, grid))
        self.intervals[kind] = scores, scores
        found = {
            prefix + table: _best_of_all(scores, span, sign, top)
            for table, span in spans.items()
            for prefix, sign in self.signs.items()
        }
        if observer is not None:
            shown = torch.cat([index for index, _ in found.values()])
            self.scorer.chosen(grid, shown.unique(), observer)
        self.best |= found
        for table, span in spans.items():
            self.costs[table] = Cost(_count(grid, span), _count(grid, span))

    def _intervals(self, name: str, grid: Grid) -> tuple[Tensor, Tensor]:
        """Bounds of every part, those with the widest intervals scored exactly."""
        _, lower, upper = zip(*self.fine.all(grid), strict=True)
        low, high = torch.cat(lower).flatten(), torch.cat(upper).flatten()
        widest = (high - low).topk(max(1, int(EXACT_SHARE * len(low)))).indices.sort().values
        low[widest] = high[widest] = self.scorer.chosen(grid, widest)
        if self.report is not None:
            self.report(name, grid.n_layers * grid.n_columns, grid.n_layers * grid.n_columns)
        return low.view(grid.shape), high.view(grid.shape)

    def _progress(self, name: str, grid: Grid) -> Callable[[int], None] | None:
        if self.report is None:
            return None
        report, total, done = self.report, grid.n_layers * grid.n_columns, 0

        def count(n_columns: int) -> None:
            nonlocal done
            done += n_columns
            report(name, done, total)

        return count


def attribute(
    prediction: Prediction,
    top: int,
    neurons: Neurons,
    suppressing: bool = True,
    report: Report | None = None,
) -> tuple[dict[str, pd.DataFrame], dict[str, Cost]]:
    """Every table of a result, and what the searches cost.

    Args:
        prediction: what to attribute.
        top: how many neurons of each kind and direction.
        neurons: `"top"` finds them by bounds; `"all"` scores every neuron and takes them from there;
            `"bounds"` adds to `"top"` an interval for every neuron.
        suppressing: whether to find those that lower the target most too.
        report: told of progress through all neurons.
    """
    language_model, trace, base = prediction.language_model, prediction.trace, prediction.base
    anatomy, tokens = language_model.anatomy, prediction.tokens
    n_tokens, d_head = len(tokens), anatomy.d_head
    ffn = parts.ffn_neurons(trace, anatomy, base.ffn)
    attention = parts.attention_neurons(trace, anatomy, base.attention)
    positions = parts.heads_at_positions(trace, anatomy, base.attention)
    heads = parts.heads(trace, anatomy, base.attention)

    explorer = Explorer(prediction, neurons, suppressing, report)
    reader = TokenReader(N_READ)
    explorer.explore("FFN neurons", ffn, top, {"ffn_neurons": (0, 1)}, reader)
    spans = {
        "attention_neurons": (0, n_tokens),
        "attention_neurons_summed": (n_tokens, n_tokens + 1),
    }
    explorer.explore("attention neurons", attention, top, spans)
    explorer.find(positions, min(top, N_POSITIONS), {"positions": (0, 1)})

    make = {
        "positions": partial(tables.heads_at_positions, positions, trace.patterns, tokens),
        "ffn_neurons": partial(tables.ffn_neurons, ffn, language_model, reader),
        "attention_neurons": partial(tables.attention_neurons, attention, d_head, tokens),
        "attention_neurons_summed": partial(tables.attention_neurons_summed, attention, d_head),
    }
    found = {table: tables.empty(table) for table in TABLES}
    found["layers"] = tables.layers(base.layer_scores(prediction.target))
    found["heads"] = tables.heads(explorer.scorer.all(heads)[..., 0])
    for table, best in explorer.best.items():
        found[table] = make[table.removeprefix("suppressing_")](*best)
    if explorer.intervals:
        found["ffn_scores"] = tables.ffn_scores(ffn, *explorer.intervals["FFN neurons"])
        lower, upper = (side[..., :n_tokens] for side in explorer.intervals["attention neurons"])
        found["attention_scores"] = tables.attention_scores(attention, d_head, lower, upper)
    return found, explorer.costs


def _count(grid: Grid, span: tuple[int, int]) -> int:
    """Number of parts whose coefficient index lies in a span."""
    return grid.n_layers * grid.n_columns * (span[1] - span[0])


def _best_of_all(scores: Tensor, span: tuple[int, int], sign: int, top: int) -> Best:
    """The best of exhaustive scores `[n_layers, n_columns, n_coefficients]` within a span."""
    index = torch.arange(scores.numel(), device=scores.device).view_as(scores)
    index, flat = index[..., slice(*span)].flatten(), scores[..., slice(*span)].flatten()
    order = flat.argsort(descending=sign > 0, stable=True)[:top]
    return index[order], flat[order]
