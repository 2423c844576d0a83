"""From a trace to a result: base states, bounds, search, tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution import parts, tables
from mnemoscope.attribution.base import BaseStates
from mnemoscope.attribution.bounds import Bounder, Geometry, split_tails
from mnemoscope.attribution.parts import Grid
from mnemoscope.attribution.reading import TokenReader
from mnemoscope.attribution.result import Cost
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
FINE_TOKENS = 512
# Shares of the neurons, those with the widest intervals, that `neurons="bounds"` bounds finely and
# then scores exactly.
FINE_SHARE = 0.25
EXACT_SHARE = 0.02
# How many promoted and demoted tokens are listed with an FFN neuron.
N_READ = 10


@dataclass(frozen=True)
class Best:
    """The parts that raise and those that lower the target most, as flat indices with scores."""

    raising: tuple[Tensor, Tensor]
    suppressing: tuple[Tensor, Tensor]
    cost: Cost


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

    def bounders(self, *n_tokens: int) -> list[Bounder]:
        """Bounds that sum so many tokens of every base state exactly."""
        tails = split_tails(self.base.log_probabilities, self.readout.unembedding, n_tokens)
        return [Bounder(self.geometry, self.readout, tail, self.target, self.budget) for tail in tails]


class Explorer:
    """Finds the best parts of a prediction, by bounds or by scoring every one."""

    def __init__(self, prediction: Prediction, top: int, neurons: Neurons, report: Report | None) -> None:
        """See `attribute`."""
        self.top = top
        self.neurons = neurons
        self.report = report
        self.scorer = prediction.scorer()
        self.coarse, self.fine = prediction.bounders(COARSE_TOKENS, FINE_TOKENS)

    def find(self, grid: Grid, *spans: tuple[int, int], observer: Observer | None = None) -> list[Best]:
        """The best parts whose coefficient index lies in each span, by bounds."""
        pools = [Pool(self.top, sign, *span) for span in spans for sign in (1, -1)]
        exact = search(grid, pools, self.coarse, self.fine, self.scorer, observer)
        cost = Cost(parts=grid.n_layers * grid.n_columns * grid.n_coefficients, exact=exact)
        return [
            Best(raising.best(), suppressing.best(), cost)
            for raising, suppressing in zip(pools[::2], pools[1::2], strict=True)
        ]

    def explore(
        self,
        name: str,
        grid: Grid,
        *spans: tuple[int, int],
        observer: Observer | None = None,
    ) -> tuple[list[Best], tuple[Tensor, Tensor] | None]:
        """The best neurons and, if every neuron was asked for, intervals `[n_layers, n, m]`.

        The observer is shown at least the best.
        """
        if self.neurons == "all":
            scores = self.scorer.all(grid, self._progress(name, grid))
            best = [_best_of_all(scores, span, self.top) for span in spans]
            if observer is not None:
                shown = [index for b in best for index, _ in (b.raising, b.suppressing)]
                self.scorer.chosen(grid, torch.cat(shown).unique(), observer)
            return best, (scores, scores)
        best = self.find(grid, *spans, observer=observer)
        return best, self._intervals(name, grid) if self.neurons == "bounds" else None

    def _intervals(self, name: str, grid: Grid) -> tuple[Tensor, Tensor]:
        """Bounds of every part, those with the widest intervals scored exactly."""
        _, lower, upper = zip(*self.coarse.all(grid), strict=True)
        low, high = torch.cat(lower).flatten(), torch.cat(upper).flatten()
        for share, refined in ((FINE_SHARE, self.fine.chosen), (EXACT_SHARE, self._exactly)):
            widest = (high - low).topk(max(1, int(share * len(low)))).indices.sort().values
            low[widest], high[widest] = refined(grid, widest)
        if self.report is not None:
            self.report(name, grid.n_layers * grid.n_columns, grid.n_layers * grid.n_columns)
        return low.view(grid.shape), high.view(grid.shape)

    def _exactly(self, grid: Grid, index: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.scorer.chosen(grid, index)
        return scores, scores

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
    prediction: Prediction, top: int, neurons: Neurons, report: Report | None = None
) -> tuple[dict[str, pd.DataFrame], dict[str, Cost]]:
    """Every table of a result, and what the searches cost.

    Args:
        prediction: what to attribute.
        top: how many neurons of each kind and direction.
        neurons: `"top"` finds them by bounds; `"all"` scores every neuron and takes them from there;
            `"bounds"` adds to `"top"` an interval for every neuron.
        report: told of progress through all neurons.
    """
    anatomy, trace, base = prediction.language_model.anatomy, prediction.trace, prediction.base
    ffn = parts.ffn_neurons(trace, anatomy, base.ffn)
    attention = parts.attention_neurons(trace, anatomy, base.attention)
    n_tokens = len(prediction.tokens)
    explorer = Explorer(prediction, top, neurons, report)
    reader = TokenReader(N_READ)
    (best_ffn,), ffn_intervals = explorer.explore("FFN neurons", ffn, (0, 1), observer=reader)
    (best_attention, best_summed), attention_intervals = explorer.explore(
        "attention neurons", attention, (0, n_tokens), (n_tokens, n_tokens + 1)
    )
    positions = parts.heads_at_positions(trace, anatomy, base.attention)
    (best_positions,) = explorer.find(positions, (0, 1))
    head_scores = explorer.scorer.all(parts.heads(trace, anatomy, base.attention))

    makers = {
        "positions": (
            best_positions,
            partial(tables.heads_at_positions, positions, trace.patterns, prediction.tokens),
        ),
        "ffn_neurons": (
            best_ffn,
            partial(tables.ffn_neurons, ffn, prediction.language_model, reader),
        ),
        "attention_neurons": (
            best_attention,
            partial(tables.attention_neurons, attention, anatomy.d_head, prediction.tokens),
        ),
        "attention_neurons_summed": (
            best_summed,
            partial(tables.attention_neurons_summed, attention, anatomy.d_head),
        ),
    }
    found = {
        "layers": tables.layers(base.layer_scores(prediction.target)),
        "heads": tables.heads(head_scores[..., 0]),
        "ffn_scores": tables.empty("ffn_scores"),
        "attention_scores": tables.empty("attention_scores"),
    }
    for name, (best, make) in makers.items():
        found[name] = make(*best.raising)
        found[f"suppressing_{name}"] = make(*best.suppressing)
    if ffn_intervals is not None and attention_intervals is not None:
        found["ffn_scores"] = tables.ffn_scores(ffn, *ffn_intervals)
        by_position = [side[..., :n_tokens] for side in attention_intervals]
        found["attention_scores"] = tables.attention_scores(attention, anatomy.d_head, *by_position)
    return found, {name: best.cost for name, (best, _) in makers.items()}


def _best_of_all(scores: Tensor, span: tuple[int, int], top: int) -> Best:
    """The best of exhaustive scores `[n_layers, n_columns, n_coefficients]` within a span."""
    index = torch.arange(scores.numel(), device=scores.device).view_as(scores)
    index, flat = index[..., slice(*span)].flatten(), scores[..., slice(*span)].flatten()
    both = []
    for descending in (True, False):
        order = flat.argsort(descending=descending, stable=True)[:top]
        both.append((index[order], flat[order]))
    return Best(both[0], both[1], Cost(parts=scores.numel(), exact=scores.numel()))
