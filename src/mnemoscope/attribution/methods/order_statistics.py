"""Bounds of a target's rank that serve every target: some order statistics of each neuron's values.

One streaming pass over neurons x vocabulary serves all prompts of a study (docs/method.md#static-scores). Of
the values that a neuron's column gives the tokens, those are kept that stand at certain ranks. Between two of
them lies the value of any target, which costs one dot product.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mnemoscope.attribution.geometry import Geometry, unit
from mnemoscope.model.anatomy import Projection
from mnemoscope.model.readout import project

# Ranks whose values are kept stand so far apart, and a rank is known within that factor.
RATIO = 1.25
# Columns projected at once.
N_ROWS = 128


class OrderStatistics:
    """Values at certain ranks among the whole vocabulary, for columns of weights; made when asked for."""

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
        """How many tokens are certainly above and certainly below a target, `[n] -> [n, 2]`."""
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
        """`[n_columns, n_ranks]`, ascending."""
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
