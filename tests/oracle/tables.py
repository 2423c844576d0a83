"""The package's tables beside the oracle's numbers, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from oracle.scores import Oracle

# Scores closer than this, in nats, may stand in either order.
TIE = 1e-5
SILENT = 1e-7
_LISTS = {
    "heads_by_position": ("layer", "head", "position"),
    "ffn_neurons": ("layer", "neuron"),
    "attention_neurons": ("layer", "head", "dim", "position"),
    "attention_neurons_summed": ("layer", "head", "dim"),
}
KINDS = ("attention", "ffn")


@dataclass(frozen=True)
class Compared:
    """How far a result is from the oracle.

    Attributes:
        errors: largest absolute difference by table, nats.
        disorder: by list, the most that the k-th part listed differs from the k-th best of all, nats.
    """

    errors: dict[str, float]
    disorder: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest difference of all tables, nats."""
        return max(self.errors.values())


def compared(result: Any, oracle: Oracle) -> Compared:
    """Compare every table of value neurons, layers and heads with the oracle."""
    expected = {
        "heads_by_position": oracle.heads_at_positions,
        "ffn_neurons": padded(oracle.ffn_neurons),
        "attention_neurons": oracle.attention_neurons,
        "attention_neurons_summed": oracle.attention_neurons_summed,
    }
    layers = result.layers.assign(kind=[KINDS.index(kind) for kind in result.layers["kind"]])
    errors = {
        "value": abs(result.targets.value - oracle.value),
        "value_of_embeddings": abs(result.value_of_embeddings - oracle.value_of_embeddings),
        "targets": max(_of_targets(result, oracle)),
        "layers": _complete(layers, ("layer", "kind"), "direct", oracle.layers),
        "heads": _complete(result.heads, ("layer", "head"), "direct", oracle.heads),
    }
    disorder = {
        "layers": _disorder(_at(layers, ("layer", "kind"), oracle.layers), oracle.layers, 1),
        "heads": _disorder(_at(result.heads, ("layer", "head"), oracle.heads), oracle.heads, 1),
    }
    for name, keys in _LISTS.items():
        for sign, listed in ((1, name), (-1, f"suppressing_{name}")):
            table = getattr(result, listed)
            right = _at(table, keys, expected[name])
            errors[listed] = _error(table["direct"], right)
            disorder[listed] = _disorder(right, expected[name], sign)
    for name, table in (("ffn_neurons", result.ffn_scores), ("attention_neurons", result.attention_scores)):
        if len(table):
            for bound in ("lower", "upper"):
                errors[f"{name} {bound}"] = _complete(table, _LISTS[name], bound, expected[name])
    return Compared(errors, disorder)


def outside(table: pd.DataFrame, name: str, oracle: Oracle) -> float:
    """Compute how far the worst interval is from holding its score, nats; 0 or less where all hold."""
    scores = padded(oracle.ffn_neurons) if name == "ffn_neurons" else oracle.attention_neurons
    right = _at(table, _LISTS[name], scores)
    lower, upper = (torch.tensor(table[bound].to_numpy()).double() for bound in ("lower", "upper"))
    return float(torch.maximum(lower - right, right - upper).max())


def padded(layers: list[Tensor]) -> Tensor:
    """Stack layers of unequal width, NaN where a layer has no such neuron."""
    width = max(len(layer) for layer in layers)
    pad = torch.nn.functional.pad
    return torch.stack([pad(layer, (0, width - len(layer)), value=torch.nan) for layer in layers])


def _of_targets(result: Any, oracle: Oracle) -> list[float]:
    targets = (*result.targets.answers, *result.targets.against)
    return [abs(target.log_probability - float(oracle.log_p[target.id])) for target in targets]


def _complete(table: pd.DataFrame, keys: tuple[str, ...], column: str, expected: Tensor) -> float:
    assert len(table.drop_duplicates(list(keys))) == len(table) == int((~expected.isnan()).sum())
    return _error(table[column], _at(table, keys, expected))


def _at(table: pd.DataFrame, keys: tuple[str, ...], expected: Tensor) -> Tensor:
    return expected[tuple(torch.tensor(table[key].to_numpy().astype(int)) for key in keys)]


def _error(found: pd.Series, right: Tensor) -> float:
    if not len(found):
        return 0.0
    error = (torch.tensor(found.to_numpy()).double() - right).abs().max()
    return float("inf") if error.isnan() else float(error)


def _disorder(listed: Tensor, expected: Tensor, sign: int) -> float:
    """Compare the k-th listed score with the k-th best, silent parts left out of both.

    A part that adds nothing scores 0, and rounding decides which sum of tiny numbers is nothing.
    """
    every, listed = (scores[scores.abs() > SILENT] * sign for scores in (expected.flatten(), listed))
    best = every.sort(descending=True).values[: len(listed)]
    return float((listed - best).abs().max()) if len(listed) else 0.0
