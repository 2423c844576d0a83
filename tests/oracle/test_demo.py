"""The demo model, a trained one with a vocabulary of 49,152 tokens, beside the oracle."""

from __future__ import annotations

import pytest
import torch

import mnemoscope as ms
from oracle.scores import Oracle
from oracle.tables import outside

pytestmark = [pytest.mark.demo, pytest.mark.nightly, pytest.mark.timeout(1800)]

PROMPTS = (
    ("The capital of Japan is the city of", " Tokyo"),
    ("The capital of Germany is the city of", " Berlin"),
    ("The opposite of hot is", " cold"),
)


@pytest.mark.parametrize(("text", "target"), PROMPTS)
def test_every_ffn_neurons_interval_and_their_sum(demo: ms.Model, text: str, target: str) -> None:
    result = demo.attribute(text, target, top=20, neurons="bounds", effects=False, query=False)
    oracle = Oracle(demo.language_model.model, result.token_ids, [result.target.id])
    assert result.target.log_probability == pytest.approx(oracle.value, abs=1e-4)
    for row in result.layers.itertuples():
        right = oracle.layers[row.layer, ("attention", "ffn").index(row.kind)]
        assert row.direct == pytest.approx(float(right), abs=1e-4)
    assert outside(result.ffn_scores, "ffn_neurons", oracle) <= 1e-5
    lower, upper = result.sum_of_scores("ffn")
    assert lower <= float(torch.cat(oracle.ffn_neurons).sum()) <= upper
