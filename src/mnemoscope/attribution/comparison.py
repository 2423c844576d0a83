"""Two predictions compared part by part (docs/method.md#comparison)."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution import tables
from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.tables import with_experts
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import COMPARISON_TABLES

# Of prompt A and of prompt B.
Predictions = tuple[TargetPrediction, TargetPrediction]
Results = tuple[Attribution, Attribution]
Grids = tuple[Grid, Grid]


def compare_predictions(predictions: Predictions, results: Results) -> dict[str, pd.DataFrame]:
    """Tabulate the scores of the same parts in two predictions of one model.

    Args:
        predictions: the two predictions.
        results: their attributions, whose lists name the neurons to compare.

    Returns:
        The tables of `COMPARISON_TABLES`, rows in descending order of the magnitude of `diff`.
    """
    structure = predictions[0].language_model.structure
    first, second = (prediction.shared for prediction in predictions)
    made = {"layers": _joined(results, "layers", "kind"), "heads": _joined(results, "heads", "head")}

    grids = first.ffn_neurons, second.ffn_neurons
    listed = _listed(results, "ffn_neurons")
    index = _index(listed["layer"], listed["neuron"], grids[0])
    scores, coefficients = _measured(predictions, grids, index)
    of_larger = tables.at_largest(scores, coefficients)
    layer, neuron, _ = grids[0].locate(index)
    made["ffn_neurons"] = _table(scores, coefficients, layer=layer, neuron=neuron).assign(
        **tables.promoted_and_demoted(predictions[0], index, of_larger)
    )

    grids = first.attention_neurons_summed, second.attention_neurons_summed
    listed = _listed(results, "attention_neurons_summed")
    index = _index(listed["layer"], listed["head"] * structure.d_head + listed["dim"], grids[0])
    layer, column, _ = grids[0].locate(index)
    made["attention_neurons_summed"] = _table(
        *_measured(predictions, grids, index), layer=layer, **tables.head_and_dim(structure, column)
    )

    ranked = {name: _by_difference(table.filter(COMPARISON_TABLES[name])) for name, table in made.items()}
    return {**ranked, "ffn_neurons": with_experts(ranked["ffn_neurons"], structure)}


def _by_difference(table: pd.DataFrame) -> pd.DataFrame:
    """Sort rows in descending order of the magnitude of `diff`, ties as they were."""
    order = (-table["diff"].abs()).argsort(kind="stable")
    return table.iloc[order].reset_index(drop=True)


def largest_unlisted(results: Results, table: str) -> float:
    """Bound the magnitude of the difference of neurons that no list of a table has, nats.

    A neuron outside of the lists of a prompt scores no more than the last of those that raise, if as many as
    asked for do, else no more than 0; and likewise no less than the last of those that lower. Both scores
    lie between these ends, but for twice the tolerance of the lists (docs/search.md#rounding).
    """
    highest, lowest = zip(*(_ends(result, table) for result in results), strict=True)
    return max(highest[1] - lowest[0], highest[0] - lowest[1])


def _ends(result: Attribution, table: str) -> tuple[float, float]:
    """Return the highest and the lowest score that a neuron outside of a result's lists may have, nats."""
    top, tolerance = result.provenance.options["top"], result.tolerance or 0.0
    lists = getattr(result, table)["direct"], getattr(result, f"suppressing_{table}")["direct"]
    raising, lowering = (float(scores.iloc[-1]) if len(scores) == top else 0.0 for scores in lists)
    return raising + 2 * tolerance, lowering - 2 * tolerance


def _joined(results: Results, name: str, place: str) -> pd.DataFrame:
    """Join complete tables of both results, rows by index."""
    a, b = (getattr(result, name).set_index(["layer", place])["direct"] for result in results)
    return pd.DataFrame({"a": a, "b": b, "diff": b - a}).sort_index().reset_index()


def _listed(results: Results, name: str) -> pd.DataFrame:
    """Return the rows of all lists of one kind of neurons, some of them several times."""
    return pd.concat([getattr(result, f"{end}{name}") for result in results for end in ("", "suppressing_")])


def _index(layer: pd.Series, column: pd.Series, grid: Grid) -> Tensor:
    """Return the ascending flat indices of neurons in a grid with one coefficient, `[n]`."""
    flat = (layer * grid.n_columns + column).unique()
    return torch.tensor(flat, dtype=torch.int64, device=grid.base.device).sort().values


def _measured(predictions: Predictions, grids: Grids, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact scores (nats) and the coefficients of neurons, `[2, n]` each.

    Neurons that take no part in a prediction, such as those of experts it is not routed to, score 0 there.
    """
    scores = torch.zeros(2, len(index), device=index.device)
    for row, prediction, grid in zip(scores, predictions, grids, strict=True):
        present = torch.isin(index, grid.present)
        if present.any():
            row[present] = prediction.scorer().chosen(grid, index[present])
    return scores, torch.stack([grid.values_of(index) for grid in grids])


def _table(scores: Tensor, coefficients: Tensor, **places: Tensor) -> pd.DataFrame:
    columns = {
        **places,
        "a": scores[0],
        "b": scores[1],
        "diff": scores[1] - scores[0],
        "coefficient_a": coefficients[0],
        "coefficient_b": coefficients[1],
    }
    return tables.frame(**columns)
