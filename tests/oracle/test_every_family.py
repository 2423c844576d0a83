"""The nightly run: every number beside brute force in float64, on every validated family."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import mnemoscope as ms
from mnemoscope.model.families.registry import FAMILIES, Family
from oracle.checks import (
    IDS,
    TARGET,
    check_ablations,
    check_bounds,
    check_everything,
    check_objectives,
    check_prompts_together,
)
from oracle.scores import Oracle
from support import family_id, open_tiny

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("family", FAMILIES, ids=family_id)
def test_everything_is_that_of_the_oracle(family: Family) -> None:
    model = family.build()
    opened = open_tiny(copy.deepcopy(model))
    for n_tokens in (1, 3, 20):
        check_everything(model, opened, IDS[:n_tokens])
    check_prompts_together(model, opened, [IDS[:3], IDS[3:4], IDS, IDS[2:9]])
    check_objectives(model, opened, IDS[:7])
    oracle = Oracle(model, IDS[:7], [TARGET])
    check_bounds(opened, oracle)
    d_head = oracle.attention_neurons.shape[2]

    def part(kind: str, layer: int, index: int) -> Any:
        if kind == "ffn":
            return ms.FFNNeuron(layer, index)
        return ms.Head(layer, index) if kind == "head" else ms.AttentionNeuron(layer, *divmod(index, d_head))

    check_ablations(opened, oracle, part)
