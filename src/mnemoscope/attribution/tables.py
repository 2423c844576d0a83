"""Scores as tables: flat indices become layers, heads, dims, positions and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.projections import TokenReader
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.tokens import token_text
from mnemoscope.results.columns import TABLES


@dataclass(frozen=True, eq=False)
class RankedParts:
    """Parts of a list, best first.

    Attributes:
        index: flat indices, `[n]`.
        score: direct effects, `[n]`, nats.
        total: first-order total effects, `[n]`, nats; NaN if not asked for.
    """

    index: Tensor
    score: Tensor
    total: Tensor


def layers(scores: Tensor, total: Tensor) -> pd.DataFrame:
    """Tabulate direct and total effects of attention and FFN by layer, `[n_layers, 2]` each."""
    n_layers = len(scores)
    return _frame(
        "layers",
        layer=torch.arange(n_layers).repeat_interleave(2),
        kind=["attention", "ffn"] * n_layers,
        **_effects(scores.flatten(), total.flatten()),
    )


def heads(scores: Tensor, total: Tensor) -> pd.DataFrame:
    """Tabulate direct and total effects of heads, `[n_layers, n_heads]` each."""
    n_layers, n_heads = scores.shape
    return _frame(
        "heads",
        layer=torch.arange(n_layers).repeat_interleave(n_heads),
        head=torch.arange(n_heads).repeat(n_layers),
        **_effects(scores.flatten(), total.flatten()),
    )


def heads_at_positions(
    grid: Grid, patterns: Tensor, tokens: tuple[str, ...], found: RankedParts
) -> pd.DataFrame:
    """Tabulate heads at positions, with attention weights of `[n_layers, n_heads, n_tokens]`."""
    layer, column, _ = grid.locate(found.index)
    head, position = column // len(tokens), column % len(tokens)
    return _frame(
        "heads_by_position",
        layer=layer,
        head=head,
        position=position,
        token=[tokens[p] for p in position.tolist()],
        **_effects(found.score, found.total),
        attention=patterns[layer, head, position],
    )


def ffn_neurons(
    grid: Grid, language_model: LanguageModel, reader: TokenReader, found: RankedParts
) -> pd.DataFrame:
    """Tabulate FFN neurons with the tokens they promote and demote, their coefficient's sign included."""
    layer, neuron, _ = grid.locate(found.index)
    coefficient = coefficients(grid, found.index)
    promotes, demotes = promoted_and_demoted(language_model, reader, found.index, coefficient)
    return _frame(
        "ffn_neurons",
        layer=layer,
        neuron=neuron,
        **_effects(found.score, found.total),
        coefficient=coefficient,
        promotes=promotes,
        demotes=demotes,
    )


def attention_neurons(grid: Grid, d_head: int, tokens: tuple[str, ...], found: RankedParts) -> pd.DataFrame:
    """Tabulate attention neurons at positions."""
    layer, column, position = grid.locate(found.index)
    return _frame(
        "attention_neurons",
        layer=layer,
        head=column // d_head,
        dim=column % d_head,
        position=position,
        token=[tokens[p] for p in position.tolist()],
        **_effects(found.score, found.total),
        coefficient=coefficients(grid, found.index),
    )


def attention_neurons_summed(grid: Grid, d_head: int, found: RankedParts) -> pd.DataFrame:
    """Tabulate attention neurons with their positions summed."""
    layer, column, _ = grid.locate(found.index)
    return _frame(
        "attention_neurons_summed",
        layer=layer,
        head=column // d_head,
        dim=column % d_head,
        **_effects(found.score, found.total),
        coefficient=coefficients(grid, found.index),
    )


def ffn_scores(grid: Grid, lower: Tensor, upper: Tensor) -> pd.DataFrame:
    """Tabulate an interval for every FFN neuron, `[n_layers, d_ff, 1]`, by layer and neuron.

    Layers may have fewer neurons than `d_ff`; intervals of silent neurons are 0.
    """
    index = grid.existing
    layer, neuron, _ = grid.locate(index)
    return _frame(
        "ffn_scores",
        layer=layer,
        neuron=neuron,
        lower=lower.flatten()[index],
        upper=upper.flatten()[index],
        coefficient=coefficients(grid, index),
    )


def attention_scores(grid: Grid, d_head: int, lower: Tensor, upper: Tensor) -> pd.DataFrame:
    """Tabulate intervals for attention neurons at every position, `[n_layers, n_columns, n_tokens]`."""
    n_tokens = lower.shape[2]
    index = torch.arange(lower.numel(), device=lower.device)
    column = index // n_tokens
    position = index % n_tokens
    in_grid = column * grid.n_coefficients + position
    layer, column, _ = grid.locate(in_grid)
    return _frame(
        "attention_scores",
        layer=layer,
        head=column // d_head,
        dim=column % d_head,
        position=position,
        lower=lower.flatten(),
        upper=upper.flatten(),
        coefficient=coefficients(grid, in_grid),
    )


def empty(table: str) -> pd.DataFrame:
    """Return a table without rows."""
    return pd.DataFrame({name: [] for name in TABLES[table]})


def sorted_best_first(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Sort the rows of a table in descending order of a column, ties as they were."""
    return table.sort_values(by, ascending=False, kind="stable", ignore_index=True)


def frame(**columns: Tensor | Sequence[Any]) -> pd.DataFrame:
    """Return columns by name as a table, on the CPU."""
    return pd.DataFrame(
        {
            name: values.cpu().numpy() if isinstance(values, Tensor) else values
            for name, values in columns.items()
        }
    )


def at_largest(scores: Tensor, values: Tensor) -> Tensor:
    """Return each part's value in the prediction with its largest score, `[n_predictions, n] -> [n]`."""
    return values.gather(0, scores.abs().argmax(0, keepdim=True))[0]


def coefficients(grid: Grid, index: Tensor) -> Tensor:
    """Return what enters the projection for parts in any order, `[n] -> [n]`, without post-norm scales."""
    order = index.argsort()
    found = torch.empty(len(index), device=index.device)
    found[order] = grid.gather_values(*grid.locate(index[order]))
    return found


def promoted_and_demoted(
    language_model: LanguageModel, reader: TokenReader, columns: Tensor, coefficient: Tensor
) -> tuple[list[list[str]], list[list[str]]]:
    """Return the tokens that columns with coefficients of these signs promote and demote, `[n, n_read]`."""
    high, low = reader.read(columns)
    negative = (coefficient < 0)[:, None]
    sides = torch.where(negative, low, high), torch.where(negative, high, low)
    promotes, demotes = (
        [[token_text(language_model.tokenizer, i) for i in row] for row in side.tolist()] for side in sides
    )
    return promotes, demotes


def _frame(table: str, **columns: Tensor | list[str] | list[list[str]]) -> pd.DataFrame:
    return frame(**columns).filter(TABLES[table])


def _effects(direct: Tensor, total: Tensor) -> dict[str, Tensor]:
    return {"direct": direct, "total": total, "mediated": total - direct}


def with_experts(table: pd.DataFrame, structure: ModelStructure) -> pd.DataFrame:
    """Add the expert of each FFN neuron, if some layer is a mixture; -1 for dense and shared neurons."""
    if not structure.mixtures:
        return table
    layers, neurons = table["layer"].to_numpy(), table["neuron"].to_numpy()
    experts = np.full(len(table), -1)
    for layer, mixture in structure.mixtures.items():
        routed = (layers == layer) & (neurons < mixture.n_experts * mixture.d_expert)
        experts[routed] = neurons[routed] // mixture.d_expert
    with_column = table.copy()
    with_column.insert(list(table).index("neuron") + 1, "expert", experts)
    return with_column
