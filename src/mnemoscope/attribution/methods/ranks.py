"""Methods f and h of the paper: the target's rank among the tokens that a neuron promotes.

Of the values that a neuron's column gives the tokens, those at certain ranks are kept
(docs/method.md#static-scores). Between two of them lies the value of any target, which costs one dot product,
so one pass over neurons x vocabulary serves all prompts of a study (`OrderStatistics`). For a few targets
that pass is too long: the rank among some of the tokens bounds the rank among all from below, and leaves most
neurons out (`Standing`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mnemoscope.attribution.geometry import Geometry, unit
from mnemoscope.attribution.grids import MAX_ROWS, MIN_ROWS, Grid, Observer, by_layer, project_columns
from mnemoscope.attribution.methods.base import MethodInput, Searched
from mnemoscope.model.readout import Readout, project
from mnemoscope.model.structure import Projection

# Ranks whose values are kept stand so far apart, and a rank is known within that factor.
RATIO = 1.25
# Columns projected at once.
N_ROWS = 128


class OrderStatistics:
    """Values at certain ranks among the whole vocabulary, for columns of weights, computed lazily."""

    def __init__(self, geometry: Geometry) -> None:
        """Nothing is projected yet."""
        self._geometry = geometry
        n_vocabulary = geometry.n_vocabulary
        steps = RATIO ** np.arange(1 + np.log(n_vocabulary) / np.log(RATIO))
        from_below = np.unique(np.minimum(steps, n_vocabulary).astype(int))
        # Ranks from the lowest value, 1 for it; dense at both ends, as a negative coefficient turns them.
        ranks = np.unique(np.concatenate([from_below, n_vocabulary + 1 - from_below]))
        self._ranks = torch.from_numpy(ranks).to(geometry.mean.device)
        self._kept: dict[int, Tensor] = {}

    def of(self, token: int, projection: Projection, column: Tensor) -> Tensor:
        """Count the tokens certainly above and certainly below a target, `[n] -> [n, 2]`."""
        kept = self._values(projection)[column]
        norm, unembedding = self._geometry.readout.norm, self._geometry.readout.unembedding
        direction = norm.centre((unembedding[token].float() * norm.weight)[None])[0]
        own = (projection.columns() @ direction)[column]
        lengths, _ = self._geometry.measure_weights(projection)
        slack = 4 * unit(len(direction)) * lengths[column] * self._geometry.longest
        # Ranks from below of the lowest value above the target's and of the highest one below it.
        n_ranks = len(self._ranks)
        at_most = torch.searchsorted(kept, (own + slack)[:, None], right=True)[:, 0]
        below = torch.searchsorted(kept, (own - slack)[:, None])[:, 0]
        n_above = self._geometry.n_vocabulary + 1 - self._ranks[at_most.clamp_max(n_ranks - 1)]
        n_below = self._ranks[(below - 1).clamp_min(0)]
        zero = torch.zeros_like(n_above)
        counts = [torch.where(at_most < n_ranks, n_above, zero), torch.where(below > 0, n_below, zero)]
        return torch.stack(counts, dim=1).float()

    def _values(self, projection: Projection) -> Tensor:
        """Return `[n_columns, n_ranks]`, ascending."""
        key = id(projection.module)
        if key not in self._kept:
            norm = self._geometry.readout.norm
            folded = norm.centre(projection.columns()) * norm.weight
            self._kept[key] = torch.cat([self._at_ranks(rows) for rows in folded.split(N_ROWS)])
        return self._kept[key]

    def _at_ranks(self, folded: Tensor) -> Tensor:
        values = project(folded, self._geometry.readout.unembedding)
        if values.device.type != "cpu":
            return values.sort(dim=-1).values[:, self._ranks - 1]
        # Ten times as fast as torch's on processors.
        values.numpy().sort(axis=1)
        return values[:, self._ranks - 1]


# Tokens compared by the first bound of every neuron and by the second of those left.
COARSE_TOKENS = 768
FINE_TOKENS = 4096
# Projecting every neuron to the whole vocabulary costs as much as bounding the ranks of some more targets.
FEW_TARGETS = 16


class Standing:
    """Standing of a target among some of the tokens, for every column of a model's weights.

    The norm's frozen scale changes no order, so counts serve every prompt with the same target.
    """

    def __init__(self, readout: Readout, token: int, n_tokens: int) -> None:
        """Draw tokens at random: those most like the target tell less, as they go with it."""
        embeddings, norm = readout.unembedding, readout.norm
        order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(0))
        ids = order[order != token][:n_tokens].to(embeddings.device)
        # The target's advantage over each of the tokens, as directions of the residual stream.
        self._advantages = norm.centre((embeddings[token].float() - embeddings[ids].float()) * norm.weight)
        self._lengths = self._advantages.norm(dim=-1)
        self._counted: dict[int, Tensor] = {}

    def of(self, projection: Projection, column: Tensor) -> Tensor:
        """Count the tokens certainly above and below the target, `[n] -> [n, 2]`, each column once."""
        counted = self._counted.setdefault(
            id(projection.module), torch.full((projection.n_inputs, 2), torch.nan, device=column.device)
        )
        missing = column[counted[column, 0].isnan()]
        if len(missing):
            every = len(missing) == len(counted)
            counted[missing] = self._count(projection.columns(None if every else missing))
        return counted[column]

    def _count(self, columns: Tensor) -> Tensor:
        counts = torch.zeros(len(columns), 2, device=columns.device)
        lengths = columns.norm(dim=-1, keepdim=True)
        for directions, reach in zip(self._advantages.split(1024), self._lengths.split(1024), strict=True):
            advantage = columns @ directions.T
            slack = 4 * unit(columns.shape[1]) * lengths * reach
            counts += _below_and_above(advantage, -slack, slack)
        return counts


def _below_and_above(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Count the values below `low` and above `high` in each row, `[n_rows, n] -> [n_rows, 2]`."""
    # Written as floats: summing booleans takes twice as long, and float32 counts to 16 million exactly.
    room = torch.empty_like(values)
    below = torch.lt(values, low, out=room).sum(-1)
    return torch.stack([below, torch.gt(values, high, out=room).sum(-1)], dim=1)


class RankBounds:
    """Bounds of `1 / rank`, or of `|m| / rank`."""

    def __init__(self, method_input: MethodInput, n_tokens: int, weighted: bool) -> None:
        """Look at so many tokens, or at all once there were many targets."""
        geometry, token = method_input.prediction.geometry(), method_input.one_token("a rank")
        self.weighted = weighted
        self.n_vocabulary = geometry.n_vocabulary
        targets: set[int] = geometry.latest("targets of ranks", None, set)
        targets.add(token)
        if len(targets) > FEW_TARGETS:
            among_all = geometry.latest("order statistics", None, lambda: OrderStatistics(geometry))
            self._count = partial(among_all.of, token)
        else:
            self._count = geometry.latest(
                ("standing", n_tokens), token, lambda: Standing(geometry.readout, token, n_tokens)
            ).of

    def all(self, grid: Grid) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield bounds of every neuron that takes part, a layer at a time."""
        layer, column = grid.split(grid.present)
        for here, some in by_layer(layer):
            lower, upper = self._bounds(grid, here, column[some])
            yield grid.present[some, None], lower[:, None], upper[:, None]

    def chosen(self, grid: Grid, index: Tensor) -> tuple[Tensor, Tensor]:
        """Bound some neurons."""
        layer, column, _ = grid.locate(index)
        found = [self._bounds(grid, here, column[some]) for here, some in by_layer(layer)]
        lower, upper = zip(*found, strict=True)
        return torch.cat(lower), torch.cat(upper)

    def _bounds(self, grid: Grid, layer: int, column: Tensor) -> tuple[Tensor, Tensor]:
        """Bound from the numbers of tokens above and below, which a negative coefficient turns around."""
        assert grid.weights is not None, "ranks are of neurons, whose columns are weights"
        counts = self._count(grid.weights[layer], column)
        coefficients = grid.coefficients(layer)[column, 0]
        turned = torch.where(coefficients[:, None] < 0, counts.flip(1), counts)
        weight = coefficients.abs() if self.weighted else torch.ones_like(coefficients)
        highest, lowest = 1 + turned[:, 0], self.n_vocabulary - turned[:, 1]
        return weight / lowest, weight / highest


class RankScores:
    """`1 / rank`, or `|m| / rank`, from the whole vocabulary; equal values count in the target's favour."""

    def __init__(self, method_input: MethodInput, weighted: bool) -> None:
        """Prepare for one prediction."""
        self._token = method_input.one_token("a rank")
        # Numbers of tokens above and below the target for the columns of each module; NaN if not counted yet.
        self._counted: dict[int, Tensor] = method_input.prediction.geometry().latest(
            "ranks", self._token, dict
        )
        self._readout = method_input.prediction.readout
        self.weighted = weighted

    def chosen(self, grid: Grid, index: Tensor, observer: Observer | None = None) -> Tensor:
        """Score neurons with these ascending flat indices, `[n]`; an observer is not called."""
        layer, column, factors = grid.gather(index)
        counts = self._counts(grid, layer * grid.n_columns + column)
        above = torch.where(factors < 0, counts[:, 1], counts[:, 0])
        weight = factors.abs() if self.weighted else torch.ones_like(factors)
        return weight / (1 + above)

    def _counts(self, grid: Grid, index: Tensor) -> Tensor:
        """Count for columns `layer * n_columns + column`, ascending, `[n] -> [n, 2]`."""
        layer, column = grid.split(index)
        counts = torch.cat([self._table(grid, here)[column[some]] for here, some in by_layer(layer)])
        missing = torch.nonzero(counts[:, 0].isnan())[:, 0]
        for some in missing.split(MAX_ROWS) if len(missing) else ():
            values = project_columns(self._readout, grid, index[some])
            own = values[:, self._token, None]
            pieces = zip(values.split(MIN_ROWS), own.split(MIN_ROWS), strict=True)
            found = torch.cat([_below_and_above(piece, target, target) for piece, target in pieces])
            counts[some] = found.flip(1)
        for here, some in by_layer(layer):
            self._table(grid, here)[column[some]] = counts[some]
        return counts

    def _table(self, grid: Grid, layer: int) -> Tensor:
        assert grid.weights is not None, "ranks are of neurons, whose columns are weights"
        projection = grid.weights[layer]
        unknown = torch.full((projection.n_inputs, 2), torch.nan, device=grid.base.device)
        return self._counted.setdefault(id(projection.module), unknown)


class Rank(Searched):
    """`1 / rank of w in bs(v)` (docs/method.md#static-scores); a negative m turns the order around."""

    name = "rank"
    title = "f rank"
    formula = "1 / rank of w in bs(v)"
    takes_log_odds = False
    # What adds nothing promotes no token above another.
    lists_silent = False
    weighted = False

    def bounds(self, method_input: MethodInput, *, fine: bool) -> RankBounds:
        """Return bounds from the target's rank among some of the tokens."""
        return RankBounds(method_input, FINE_TOKENS if fine else COARSE_TOKENS, self.weighted)

    def scorer(self, method_input: MethodInput) -> RankScores:
        """Return scores from the target's rank among all tokens."""
        return RankScores(method_input, self.weighted)


class CoefficientOverRank(Rank):
    """`|m| / rank of w in bs(v)` (docs/method.md#static-scores)."""

    name = "coefficient-over-rank"
    title = "h coefficient / rank"
    formula = "|m| / rank of w in bs(v)"
    lists_silent = True
    weighted = True

    def grid(self, method_input: MethodInput) -> Grid:
        """Drop a post-norm's scale, which changes no rank: `m` is what enters the projection."""
        return replace(method_input.grid, scale=torch.ones_like(method_input.grid.scale))
