"""Which expert FFN neurons belong to."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mnemoscope.model.anatomy import Anatomy


def with_experts(table: pd.DataFrame, anatomy: Anatomy) -> pd.DataFrame:
    """FFN neurons with the expert that each belongs to, where some layer is a mixture of experts.

    -1 for neurons of dense layers and of shared experts.
    """
    if not anatomy.mixtures:
        return table
    layers, neurons = table["layer"].to_numpy(), table["neuron"].to_numpy()
    experts = np.full(len(table), -1)
    for layer, mixture in anatomy.mixtures.items():
        routed = (layers == layer) & (neurons < mixture.n_experts * mixture.d_expert)
        experts[routed] = neurons[routed] // mixture.d_expert
    with_column = table.copy()
    with_column.insert(list(table).index("neuron") + 1, "expert", experts)
    return with_column
