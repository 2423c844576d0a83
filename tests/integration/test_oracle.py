"""Scores on the demo model against an independent, exhaustive run of the authors' algorithm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import mnemoscope as ms

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3


@pytest.fixture
def result(demo: ms.Model, oracle: dict[str, Any]) -> ms.Attribution:
    return demo.attribute(oracle["prompt"], oracle["target"], top=100)


def by_name(table: pd.DataFrame, *columns: str) -> dict[str, float]:
    names = table[list(columns)].astype(str).agg("_".join, axis=1)
    return dict(zip(names, table["score"], strict=True))


def assert_same_order(found: dict[str, float], expected: list[list[Any]]) -> None:
    """Same parts with the same scores in the same order, except near-ties."""
    reference = dict(expected)
    assert all(abs(reference[name] - score) < TOLERANCE for name, score in found.items())
    for name, (expected_name, expected_score) in zip(found, expected, strict=False):
        assert name == expected_name or abs(reference[name] - expected_score) < TOLERANCE


def test_prompt_and_target(result: ms.Attribution, oracle: dict[str, Any]) -> None:
    assert list(result.token_ids) == oracle["token_ids"]
    assert list(result.tokens) == oracle["tokens"]
    assert result.target.id == oracle["target_id"]
    assert result.target.rank == oracle["base"]["rank"]
    assert result.target.log_probability == pytest.approx(oracle["base"]["logprob"], abs=1e-4)


def test_ffn_neurons(result: ms.Attribution, oracle: dict[str, Any]) -> None:
    found = by_name(result.ffn_neurons, "layer", "neuron")
    assert len(found) == 100
    assert_same_order(found, oracle["ffn_top300"])


def test_suppressing_ffn_neurons(result: ms.Attribution, oracle: dict[str, Any]) -> None:
    found = by_name(result.suppressing_ffn_neurons, "layer", "neuron")
    for name, score in oracle["ffn_bottom50"]:
        assert found[name] == pytest.approx(score, abs=TOLERANCE)


def test_attention_neurons(result: ms.Attribution, oracle: dict[str, Any]) -> None:
    found = by_name(result.attention_neurons, "layer", "head", "dim", "position")
    assert len(found) == 100
    assert_same_order(found, oracle["attn_top300"])


def test_heads(result: ms.Attribution, oracle: dict[str, Any]) -> None:
    found = by_name(result.heads, "layer", "head")
    assert found == pytest.approx(dict(oracle["heads"]), abs=TOLERANCE)


def test_layers(result: ms.Attribution, oracle: dict[str, Any]) -> None:
    table = result.layers.sort_values("layer", kind="stable")
    for kind, key in (("attention", "layer_attn"), ("ffn", "layer_ffn")):
        scores = table.loc[table["kind"] == kind, "score"]
        assert np.abs(scores - oracle[key]).max() < TOLERANCE


def test_few_exact_evaluations_are_enough(result: ms.Attribution) -> None:
    assert result.costs["ffn_neurons"].parts == 30 * 1536
    assert result.costs["ffn_neurons"].exact < 600
    assert result.costs["attention_neurons"].exact < 1000
