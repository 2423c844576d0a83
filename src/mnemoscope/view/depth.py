"""One effect of a result's layers and heads laid out by depth, from the first layer to the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mnemoscope.attribution.continuation import ContinuationAttribution
from mnemoscope.attribution.result import Attribution

KINDS = {"attention": "attention", "ffn": "FFN"}
QUIET = 0.05  # of the largest score of its sort: too small to matter in a picture


@dataclass(frozen=True, eq=False)
class Depth:
    """Direct scores or total effects of every block output and head, NaN where the model has no such part.

    Attributes:
        blocks: by kind ("attention", "ffn"), `[n_layers]`.
        heads: `[n_layers, n_heads]`.
    """

    blocks: dict[str, np.ndarray]
    heads: np.ndarray

    @classmethod
    def of(
        cls, result: Attribution | ContinuationAttribution, effect: Literal["score", "total"] = "score"
    ) -> Depth:
        """Lay out one column of the tables `layers` and `heads`."""
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
        """Number of heads in a layer."""
        return self.heads.shape[1]

    def block_scores(self) -> np.ndarray:
        """The scores of all blocks, `[n_layers, n_kinds]`."""
        return np.stack(list(self.blocks.values()), axis=1)

    def runs(self, all_shown: int) -> list[range]:
        """The layers as runs to show in one line each.

        Args:
            all_shown: number of layers up to which every run is a single layer; in deeper models
                neighbouring quiet layers make one run.
        """
        if self.n_layers <= all_shown:
            return [range(layer, layer + 1) for layer in range(self.n_layers)]
        quiet = _is_quiet(self.block_scores()) & _is_quiet(self.heads)
        runs: list[range] = []
        for layer in range(self.n_layers):
            if runs and quiet[layer - 1] and quiet[layer]:
                runs[-1] = range(runs[-1].start, layer + 1)
            else:
                runs.append(range(layer, layer + 1))
        return runs


def largest(scores: np.ndarray) -> float:
    """The largest magnitude among the finite scores, 0 if there is none."""
    finite = scores[np.isfinite(scores)]
    return float(np.abs(finite).max(initial=0.0))


def _is_quiet(scores: np.ndarray) -> np.ndarray:
    """Which rows hold nothing worth seeing, `[n_layers]`."""
    loud = np.abs(np.nan_to_num(scores)) >= QUIET * largest(scores)
    return np.asarray(~loud.any(axis=1))
