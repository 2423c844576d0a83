"""Scores as tables: flat indices become layers, heads, dims, positions and tokens."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.parts import Grid
from mnemoscope.attribution.reading import TokenReader
from mnemoscope.attribution.result import TABLES
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import token_text


def layers(scores: Tensor) -> pd.DataFrame:
    """Attention and FFN scores by layer, `[n_layers, 2]`."""
    n_layers = len(scores)
    frame = pd.DataFrame(
        {
            "layer": [layer for layer in range(n_layers) for _ in range(2)],
            "kind": ["attention", "ffn"] * n_layers,
            "score": scores.flatten().tolist(),
        }
    )
    return _sorted(frame)


def heads(scores: Tensor) -> pd.DataFrame:
    """Head scores, `[n_layers, n_heads]`."""
    n_layers, n_heads = scores.shape
    frame = pd.DataFrame(
        {
            "layer": torch.arange(n_layers).repeat_interleave(n_heads).tolist(),
            "head": list(range(n_heads)) * n_layers,
            "score": scores.flatten().tolist(),
        }
    )
    return _sorted(frame)


def heads_at_positions(
    grid: Grid, patterns: Tensor, tokens: tuple[str, ...], index: Tensor, score: Tensor
) -> pd.DataFrame:
    """Chosen heads at positions, with their attention weights `[n_layers, n_heads, n_tokens]`."""
    layer, column, _ = grid.locate(index)
    head, position = column.div(len(tokens), rounding_mode="floor"), column % len(tokens)
    return _frame(
        "positions",
        layer=layer,
        head=head,
        position=position,
        token=[tokens[p] for p in position.tolist()],
        score=score,
        attention=patterns[layer, head, position],
    )


def ffn_neurons(
    grid: Grid, language_model: LanguageModel, reader: TokenReader, index: Tensor, score: Tensor
) -> pd.DataFrame:
    """Chosen FFN neurons with the tokens they promote and demote, their coefficient's sign included."""
    layer, neuron, _ = grid.locate(index)
    coefficient = _coefficients(grid, index)
    high, low = reader.read(index)
    negative = (coefficient < 0)[:, None]
    return _frame(
        "ffn_neurons",
        layer=layer,
        neuron=neuron,
        score=score,
        coefficient=coefficient,
        promotes=_texts(language_model, torch.where(negative, low, high)),
        demotes=_texts(language_model, torch.where(negative, high, low)),
    )


def attention_neurons(
    grid: Grid, d_head: int, tokens: tuple[str, ...], index: Tensor, score: Tensor
) -> pd.DataFrame:
    """Chosen attention neurons at positions."""
    layer, column, position = grid.locate(index)
    return _frame(
        "attention_neurons",
        layer=layer,
        head=column.div(d_head, rounding_mode="floor"),
        dim=column % d_head,
        position=position,
        token=[tokens[p] for p in position.tolist()],
        score=score,
        coefficient=_coefficients(grid, index),
    )


def attention_neurons_summed(grid: Grid, d_head: int, index: Tensor, score: Tensor) -> pd.DataFrame:
    """Chosen attention neurons with their positions summed."""
    layer, column, _ = grid.locate(index)
    return _frame(
        "attention_neurons_summed",
        layer=layer,
        head=column.div(d_head, rounding_mode="floor"),
        dim=column % d_head,
        score=score,
        coefficient=_coefficients(grid, index),
    )


def ffn_scores(grid: Grid, lower: Tensor, upper: Tensor) -> pd.DataFrame:
    """An interval for every FFN neuron, `[n_layers, d_ff, 1]`, by layer and neuron."""
    index = torch.arange(lower.numel(), device=lower.device)
    layer, neuron, _ = grid.locate(index)
    return _frame(
        "ffn_scores",
        layer=layer,
        neuron=neuron,
        lower=lower.flatten(),
        upper=upper.flatten(),
        coefficient=_coefficients(grid, index),
    )


def attention_scores(grid: Grid, d_head: int, lower: Tensor, upper: Tensor) -> pd.DataFrame:
    """An interval for every attention neuron at every position, `[n_layers, n_columns, n_tokens]`."""
    n_tokens = lower.shape[2]
    index = torch.arange(lower.numel(), device=lower.device)
    column = index.div(n_tokens, rounding_mode="floor")
    position = index % n_tokens
    in_grid = column * grid.n_coefficients + position
    layer, column, _ = grid.locate(in_grid)
    return _frame(
        "attention_scores",
        layer=layer,
        head=column.div(d_head, rounding_mode="floor"),
        dim=column % d_head,
        position=position,
        lower=lower.flatten(),
        upper=upper.flatten(),
        coefficient=_coefficients(grid, in_grid),
    )


def empty(table: str) -> pd.DataFrame:
    """A table without rows."""
    return pd.DataFrame({name: [] for name in TABLES[table]})


def _coefficients(grid: Grid, index: Tensor) -> Tensor:
    order = index.argsort()
    found = torch.empty(len(index), device=index.device)
    found[order] = grid.gather_coefficients(*grid.locate(index[order]))
    return found


def _texts(language_model: LanguageModel, ids: Tensor) -> list[list[str]]:
    return [[token_text(language_model.tokenizer, i) for i in row] for row in ids.tolist()]


def _frame(table: str, **columns: Tensor | list[str] | list[list[str]]) -> pd.DataFrame:
    plain = {
        name: values.cpu().numpy() if isinstance(values, Tensor) else values
        for name, values in columns.items()
    }
    return pd.DataFrame(plain, columns=list(TABLES[table]))


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("score", ascending=False, kind="stable", ignore_index=True)
