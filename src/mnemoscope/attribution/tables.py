"""Scores as tables: flat indices become layers, heads, dims, positions and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.tokens import token_text
from mnemoscope.results.columns import TABLES


def effects(direct: Tensor, total: Tensor) -> dict[str, Tensor]:
    """Return the columns of direct and total effects of parts, `[n]` each, nats; NaN if not asked for."""
    return {"direct": direct, "total": total, "mediated": total - direct}


def layers(scores: Tensor, total: Tensor) -> pd.DataFrame:
    """Tabulate direct and total effects of attention and FFN by layer, `[n_layers, 2]` each."""
    n_layers = len(scores)
    return _frame(
        "layers",
        layer=torch.arange(n_layers).repeat_interleave(2),
        kind=["attention", "ffn"] * n_layers,
        **effects(scores.flatten(), total.flatten()),
    )


def heads(scores: Tensor, total: Tensor) -> pd.DataFrame:
    """Tabulate direct and total effects of heads, `[n_layers, n_heads]` each."""
    n_layers, n_heads = scores.shape
    return _frame(
        "heads",
        layer=torch.arange(n_layers).repeat_interleave(n_heads),
        head=torch.arange(n_heads).repeat(n_layers),
        **effects(scores.flatten(), total.flatten()),
    )


def heads_at_positions(
    prediction: TargetPrediction, index: Tensor, effects: dict[str, Tensor]
) -> pd.DataFrame:
    """Tabulate heads at positions."""
    layer, column, _ = prediction.shared.heads_at_positions.locate(index)
    n_tokens = len(prediction.tokens)
    head, position = column // n_tokens, column % n_tokens
    return _frame(
        "heads_by_position",
        layer=layer,
        head=head,
        **_positions(prediction, position),
        **effects,
        attention=prediction.activations.patterns[layer, head, position],
    )


def ffn_neurons(prediction: TargetPrediction, index: Tensor, effects: dict[str, Tensor]) -> pd.DataFrame:
    """Tabulate FFN neurons with the tokens they promote and demote, their coefficient's sign included."""
    grid = prediction.shared.ffn_neurons
    layer, neuron, _ = grid.locate(index)
    coefficient = grid.values_of(index)
    return _frame(
        "ffn_neurons",
        layer=layer,
        neuron=neuron,
        **effects,
        coefficient=coefficient,
        **promoted_and_demoted(prediction, index, coefficient),
    )


def attention_neurons(
    prediction: TargetPrediction, index: Tensor, effects: dict[str, Tensor]
) -> pd.DataFrame:
    """Tabulate attention neurons at positions."""
    grid = prediction.shared.attention_neurons
    layer, column, position = grid.locate(index)
    return _frame(
        "attention_neurons",
        layer=layer,
        **head_and_dim(prediction.language_model.structure, column),
        **_positions(prediction, position),
        **effects,
        coefficient=grid.values_of(index),
    )


def attention_neurons_summed(
    prediction: TargetPrediction, index: Tensor, effects: dict[str, Tensor]
) -> pd.DataFrame:
    """Tabulate attention neurons with their positions summed."""
    grid = prediction.shared.attention_neurons
    layer, column, _ = grid.locate(index)
    return _frame(
        "attention_neurons_summed",
        layer=layer,
        **head_and_dim(prediction.language_model.structure, column),
        **effects,
        coefficient=grid.values_of(index),
    )


# Functions that tabulate the parts of a list, by the name of the table.
OF_PARTS = {
    "heads_by_position": heads_at_positions,
    "ffn_neurons": ffn_neurons,
    "attention_neurons": attention_neurons,
    "attention_neurons_summed": attention_neurons_summed,
}


def ffn_scores(prediction: TargetPrediction, lower: Tensor, upper: Tensor) -> pd.DataFrame:
    """Tabulate an interval for every FFN neuron, `[n_layers, d_ff, 1]`, by layer and neuron.

    Layers may have fewer neurons than `d_ff`; intervals of silent neurons are 0.
    """
    grid = prediction.shared.ffn_neurons
    layer, neuron, _ = grid.locate(grid.existing)
    return _frame(
        "ffn_scores",
        layer=layer,
        neuron=neuron,
        lower=lower.flatten()[grid.existing],
        upper=upper.flatten()[grid.existing],
        coefficient=grid.values_of(grid.existing),
    )


def attention_scores(prediction: TargetPrediction, lower: Tensor, upper: Tensor) -> pd.DataFrame:
    """Tabulate intervals for attention neurons at every position, `[n_layers, n_columns, n_tokens + 1]`.

    The last of a column, for the sum of its positions, is left out.
    """
    grid = prediction.shared.attention_neurons
    index = torch.arange(grid.size, device=lower.device).view(grid.shape)[..., :-1].flatten()
    layer, column, position = grid.locate(index)
    return _frame(
        "attention_scores",
        layer=layer,
        **head_and_dim(prediction.language_model.structure, column),
        position=position,
        lower=lower[..., :-1].flatten(),
        upper=upper[..., :-1].flatten(),
        coefficient=grid.values_of(index),
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


def promoted_and_demoted(
    prediction: TargetPrediction, index: Tensor, coefficient: Tensor
) -> dict[str, list[list[str]]]:
    """Return the tokens that FFN neurons with coefficients of these signs promote and demote."""
    shared, tokenizer = prediction.shared, prediction.language_model.tokenizer
    high, low = shared.reader.read(prediction.readout, shared.ffn_neurons, index, prediction.budget)
    negative = (coefficient < 0)[:, None]
    sides = {"promotes": torch.where(negative, low, high), "demotes": torch.where(negative, high, low)}
    return {
        name: [[token_text(tokenizer, i) for i in row] for row in side.tolist()]
        for name, side in sides.items()
    }


def head_and_dim(structure: ModelStructure, index: Tensor) -> dict[str, Tensor]:
    """Return the heads and dims of attention neurons, by their index in their layer."""
    return {"head": index // structure.d_head, "dim": index % structure.d_head}


def _positions(prediction: TargetPrediction, position: Tensor) -> dict[str, Tensor | list[str]]:
    return {"position": position, "token": [prediction.tokens[p] for p in position.tolist()]}


def _frame(table: str, **columns: Tensor | list[str] | list[list[str]]) -> pd.DataFrame:
    return frame(**{name: columns[name] for name in TABLES[table] if name in columns})


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
