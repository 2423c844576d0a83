"""Colours and thresholds of all pictures, and the grid of effects by depth.

Parts that raise the target are blue, solid and on the right; parts that lower it are orange, hatched or
hollow, and on the left. No sign depends on colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from mnemoscope.results.attribution import Attribution
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.prompt_comparison import PromptComparison

RAISES = "#2f86d6"
LOWERS = "#c8741a"
# Grey and violet that stand out from white and from black (contrast above 3): pictures are transparent.
TEXT = "#7a7a7a"
CONTROL = "#8a8a8a"
THIRD = "#8e6bb8"
DARK = "#1d2127"
KINDS = {"attention": "attention", "ffn": "FFN"}
_DEEP = 48  # most layers that have a line each in a terminal
QUIET = 0.05  # share of the largest magnitude below which a picture shows nothing


@dataclass(frozen=True, eq=False)
class Depth:
    """Direct scores or total effects of all blocks and heads, in nats; NaN where the model has no such part.

    Attributes:
        blocks: by kind ("attention", "ffn"), `[n_layers]`.
        heads: `[n_layers, n_heads]`.
    """

    blocks: dict[str, np.ndarray]
    heads: np.ndarray

    @classmethod
    def of(
        cls,
        result: Attribution | ContinuationAttribution | PromptComparison,
        effect: Literal["direct", "total", "a", "b", "diff"] = "direct",
    ) -> Depth:
        """Arrange one column of the tables `layers` and `heads` by layer."""
        layers, heads = result.layers, result.heads
        n_layers = 1 + max(layers["layer"].max(), heads["layer"].max())
        blocks = {kind: np.full(n_layers, np.nan) for kind in KINDS}
        for kind, rows in layers.groupby("kind"):
            blocks[str(kind)][rows["layer"]] = rows[effect]
        grid = np.full((n_layers, 1 + heads["head"].max()), np.nan)
        grid[heads["layer"], heads["head"]] = heads[effect]
        return cls(blocks, grid)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.heads.shape[0]

    @property
    def n_heads(self) -> int:
        """Number of heads of a layer."""
        return self.heads.shape[1]

    def block_scores(self) -> np.ndarray:
        """Return the scores of all blocks, `[n_layers, n_kinds]`."""
        return np.stack(list(self.blocks.values()), axis=1)

    def runs(self) -> list[range]:
        """Split the layers into runs of one line each: one, or in deep models neighbouring quiet ones."""
        quiet = _is_quiet(self.block_scores()) & _is_quiet(self.heads) & (self.n_layers > _DEEP)
        runs: list[range] = []
        for layer in range(self.n_layers):
            if runs and quiet[layer - 1] and quiet[layer]:
                runs[-1] = range(runs[-1].start, layer + 1)
            else:
                runs.append(range(layer, layer + 1))
        return runs


def largest(scores: np.ndarray) -> float:
    """Return the largest magnitude of the finite scores, 0 if there is none."""
    return float(np.abs(scores[np.isfinite(scores)]).max(initial=0.0))


def ends_of(scores: np.ndarray) -> tuple[float, float]:
    """Return the lowest and the highest of the finite scores and 0, the ends of a scale of bars."""
    finite = scores[np.isfinite(scores)]
    return float(finite.min(initial=0.0)), float(finite.max(initial=0.0))


def strongest_groups(rows: pd.DataFrame, effect: str, by: list[str], most: int) -> pd.DataFrame:
    """Return the groups of rows with the largest sums of magnitudes of an effect, in their own order."""
    sums = rows.assign(strength=rows[effect].abs()).groupby(by, as_index=False).agg({"strength": "sum"})
    return sums.nlargest(most, "strength").sort_values(by).loc[:, by]


def _is_quiet(scores: np.ndarray) -> np.ndarray:
    """Mark the rows without a magnitude of at least `QUIET` of the largest, `[n_layers]`."""
    loud = np.abs(np.nan_to_num(scores)) >= QUIET * largest(scores)
    return np.asarray(~loud.any(axis=1))
