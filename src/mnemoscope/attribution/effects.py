"""Total effects of the parts of a grid (docs/method.md#total-effects)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mnemoscope.attribution.grids import Grid, gathered, stacked
from mnemoscope.attribution.search import Pool
from mnemoscope.model.gradients import TotalEffects


@dataclass(frozen=True, eq=False)
class Totals:
    """Total effects of the parts of one grid (docs/method.md#total-effects).

    Attributes:
        grid: the parts.
        of_layer: returns a layer's effects, `[n_columns, n_coefficients]`, nats.
    """

    grid: Grid
    of_layer: Callable[[int], Tensor]

    def chosen(self, index: Tensor) -> Tensor:
        """Return the effects of parts with these flat indices, in any order, `[n] -> [n]`."""
        order = index.argsort()
        found = torch.empty(len(index), device=index.device)
        found[order] = gathered(self._every, self.of_layer, *self.grid.locate(index[order]))
        return found

    @cached_property
    def _every(self) -> Tensor | None:
        """Effects of all layers; None where they are many."""
        return stacked(self.of_layer, self.grid.shape)

    def best(self, pool: Pool) -> Tensor:
        """Return flat indices of the parts that a pool wants if effects were their scores, best first."""
        size, span = self.grid.n_columns * self.grid.n_coefficients, slice(pool.first, pool.stop)
        place = torch.arange(size, device=self.grid.base.device).view(self.grid.shape[1:])
        place = place[:, span].flatten()
        kept_index, kept_effect = [], []
        for layer in range(self.grid.n_layers):
            effect = self.of_layer(layer)[:, span].flatten() * pool.sign
            order = effect.argsort(descending=True, stable=True)
            order = order[effect[order] != 0][: pool.k]  # silent and absent neurons have no effect
            kept_index.append(place[order] + layer * size)
            kept_effect.append(effect[order])
        order = torch.cat(kept_effect).argsort(descending=True, stable=True)[: pool.k]
        return torch.cat(kept_index)[order]


def of_ffn_neurons(effects: TotalEffects, grid: Grid) -> Totals:
    """Return the effects of every FFN neuron."""
    return Totals(grid, lambda layer: effects.ffn[layer].sum(0)[:, None])


def of_attention_neurons(effects: TotalEffects, grid: Grid) -> Totals:
    """Return the effects of every attention neuron at each source position, then of their sum."""

    def of_layer(layer: int) -> Tensor:
        by_source = effects.attention_by_source(layer).flatten(0, 1)
        return torch.cat([by_source, by_source.sum(-1, keepdim=True)], dim=-1)

    return Totals(grid, of_layer)


def of_heads_at_positions(effects: TotalEffects, grid: Grid) -> Totals:
    """Return the effects of every head at each source position."""
    return Totals(grid, lambda layer: effects.attention_by_source(layer).sum(1).flatten()[:, None])
