"""Counts of value neurons, query neurons and neurons that are both, by depth (docs/method.md#query-score)."""

from __future__ import annotations

import pandas as pd

SPLIT_COLUMNS = ("layer", "query_only", "query_value", "value_only")


def split_by_layer(value_neurons: pd.DataFrame, query_neurons: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    """Count the FFN neurons of two lists by layer: in the second alone, in both, in the first alone.

    Args:
        value_neurons: a table of FFN neurons, by `layer` and `neuron`.
        query_neurons: the same.
        n_layers: of the model.

    Returns:
        One row for each layer with the columns of `SPLIT_COLUMNS`.
    """
    value, query = (
        set(zip(table["layer"].tolist(), table["neuron"].tolist(), strict=True))
        for table in (value_neurons, query_neurons)
    )
    found = {"query_only": query - value, "query_value": query & value, "value_only": value - query}
    counts = {name: [0] * n_layers for name in found}
    for name, neurons in found.items():
        for layer, _ in neurons:
            counts[name][layer] += 1
    return pd.DataFrame({"layer": range(n_layers), **counts}, columns=list(SPLIT_COLUMNS))
