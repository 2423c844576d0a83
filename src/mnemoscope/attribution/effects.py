"""First-order total effects in the arrangement of the grids, computed a layer at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.attribution.parts import Grid, by_layer
from mnemoscope.model.gradients import TotalEffects


@dataclass(frozen=True)
class Totals:
    """Total effects of the parts of one grid.

    Attributes:
        grid: the parts.
        of_layer: a layer's effects, `[n_columns, n_coefficients]`, nats.
    """

    grid: Grid
    of_layer: Callable[[int], Tensor]

    def chosen(self, index: Tensor) -> Tensor:
        """Effects of parts with these flat indices, in any order, `[n] -> [n]`."""
        order = index.argsort()
        layer, column, coefficient = self.grid.locate(index[order])
        found = torch.empty(len(index), device=index.device)
        found[order] = torch.cat(
            [self.of_layer(here)[column[some], coefficient[some]] for here, some in by_layer(layer)]
        )
        return found

    def best(self, top: int, sign: int, span: tuple[int, int]) -> Tensor:
        """Flat indices of the parts with the highest (`sign` 1) or lowest (-1) effects, best first.

        Args:
            top: how many.
            sign: which end.
            span: which coefficients of a column belong to them.
        """
        size = self.grid.n_columns * self.grid.n_coefficients
        place = torch.arange(size, device=self.grid.base.device).view(self.grid.shape[1:])
        place = place[:, slice(*span)].flatten()
        kept_index, kept_effect = [], []
        for layer in range(self.grid.n_layers):
            effect = self.of_layer(layer)[:, slice(*span)].flatten() * sign
            order = effect.argsort(descending=True, stable=True)
            order = order[effect[order] != 0][:top]  # what is silent everywhere, or not there, has none
            kept_index.append(place[order] + layer * size)
            kept_effect.append(effect[order])
        order = torch.cat(kept_effect).argsort(descending=True, stable=True)[:top]
        return torch.cat(kept_index)[order]


def of_ffn_neurons(effects: TotalEffects, grid: Grid) -> Totals:
    """Of every FFN neuron."""
    return Totals(grid, lambda layer: effects.ffn[layer].sum(0)[:, None])


def of_attention_neurons(effects: TotalEffects, grid: Grid) -> Totals:
    """Of every attention neuron at each position it carries a value from, then of their sum."""

    def of_layer(layer: int) -> Tensor:
        by_source = effects.attention_by_source(layer).flatten(0, 1)
        return torch.cat([by_source, by_source.sum(-1, keepdim=True)], dim=-1)

    return Totals(grid, of_layer)


def of_heads_at_positions(effects: TotalEffects, grid: Grid) -> Totals:
    """Of every head at each position it carries values from."""
    return Totals(grid, lambda layer: effects.attention_by_source(layer).sum(1).flatten()[:, None])
