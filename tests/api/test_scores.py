"""Scores of a result as arrays, and its neurons of both kinds in one list."""

from __future__ import annotations

import numpy as np
import pytest

import mnemoscope as ms

PROMPT = "w5 w17 w80 w33"


def test_arrays_hold_the_scores_of_the_tables(tiny: ms.Model) -> None:
    result = tiny.attribute(PROMPT, 40, top=3, effects=False, query=False)
    assert result.layer_scores.shape == (tiny.n_layers, 2)
    assert result.head_scores.shape == (tiny.n_layers, tiny.n_heads)
    assert result.layer_scores.dtype == result.head_scores.dtype == np.float64
    for layer, kind, score in zip(
        *(result.layers[name] for name in ("layer", "kind", "direct")), strict=True
    ):
        assert result.layer_scores[layer, ("attention", "ffn").index(kind)] == score
    for layer, head, score in zip(*(result.heads[name] for name in ("layer", "head", "direct")), strict=True):
        assert result.head_scores[layer, head] == score


@pytest.mark.parametrize("by", ["direct", "total"])
def test_the_top_merges_both_lists_best_first(llama: ms.Model, by: str) -> None:
    result = llama.attribute(PROMPT, 40, top=20, by=by, query=False)
    order = "total" if by == "total" else "direct"
    best = result.top(20)
    both = sorted([*result.ffn_neurons[order], *result.attention_neurons[order]], reverse=True)
    assert best[order].tolist() == both[:20]
    assert set(best["kind"]) == {"ffn", "attention"}
    of_ffn, of_attention = best[best["kind"] == "ffn"], best[best["kind"] == "attention"]
    assert of_ffn["neuron"].tolist() == result.ffn_neurons["neuron"].head(len(of_ffn)).tolist()
    assert of_ffn[["head", "dim", "position"]].isna().all(axis=None)
    assert of_attention["dim"].tolist() == result.attention_neurons["dim"].head(len(of_attention)).tolist()


def test_the_top_can_be_ablated(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, 40, top=10, query=False)
    best = result.top(10)
    parts = [
        ms.FFNNeuron(row["layer"], row["neuron"])
        if row["kind"] == "ffn"
        else ms.AttentionNeuron(row["layer"], row["head"], row["dim"])
        for row in best.to_dict("records")
    ]
    with llama.ablate(best):
        found = llama.predict(PROMPT).table
    with llama.ablate(parts):
        assert found.equals(llama.predict(PROMPT).table)


def test_more_than_the_result_lists_is_refused(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, 40, top=5, query=False)
    with pytest.raises(ms.OptionError, match=r"lists 5 neurons of each kind; .*attribute with top=6"):
        result.top(6)
    with pytest.raises(ms.OptionError, match="k is 0"):
        result.top(0)
