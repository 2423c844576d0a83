"""Total effects of the parts of a grid (docs/method.md#total-effects).

They are the values of a grid of the same parts, in nats.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.search import Pool
from mnemoscope.model.gradients import TotalEffects


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
