"""Query scores beside brute force: every value neuron with every component of the stream it reads."""

from __future__ import annotations

import copy

import pytest

import mnemoscope as ms
from oracle.checks import IDS, LARGEST_ERROR, TARGET, prompt
from oracle.queries import Queries, queries_of_attention, queries_of_ffn
from oracle.scores import Oracle
from oracle.tables import KINDS
from support import built, open_tiny

VALUES = 30


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2", "gemma2", "granite", "cohere"])
def found(request: pytest.FixtureRequest) -> tuple[ms.Attribution, Oracle]:
    model = built(request.param)
    result = open_tiny(copy.deepcopy(model)).attribute(prompt(IDS[:7]), TARGET, effects=False)
    return result, Oracle(model, IDS[:7], [TARGET])


def test_of_ffn_value_neurons(found: tuple[ms.Attribution, Oracle]) -> None:
    result, oracle = found
    neurons = result.ffn_neurons.head(VALUES)
    right = queries_of_ffn(oracle, zip(neurons["layer"], neurons["neuron"], strict=True))
    check(result, oracle, right, "_of_ffn")


def test_of_attention_value_neurons(found: tuple[ms.Attribution, Oracle]) -> None:
    result, oracle = found
    neurons = result.attention_neurons.head(VALUES)
    named = (neurons[name] for name in ("layer", "head", "dim", "position"))
    check(result, oracle, queries_of_attention(oracle, zip(*named, strict=True)), "")


def check(result: ms.Attribution, oracle: Oracle, right: Queries, ending: str) -> None:
    names = ("layers", "heads", "ffn_neurons", "attention_neurons", "value_neurons")
    tables = {f"query_{name}": result.tables()[f"query_{name}{ending}"] for name in names}
    _, n_heads, d_head, _ = oracle.attention_neurons.shape
    heads = right.heads(n_heads)
    for row in tables["query_layers"].itertuples():
        of_layer = right.embeddings if row.layer < 0 else right.layers[row.layer, KINDS.index(row.kind)]
        assert row.score == pytest.approx(float(of_layer), abs=LARGEST_ERROR)
    for row in tables["query_heads"].itertuples():
        assert row.score == pytest.approx(float(heads[row.layer, row.head]), abs=LARGEST_ERROR)
    for row in tables["query_ffn_neurons"].itertuples():
        assert row.score == pytest.approx(float(right.ffn[row.layer, row.neuron]), abs=LARGEST_ERROR)
    for row in tables["query_attention_neurons"].itertuples():
        index = row.head * d_head + row.dim
        assert row.score == pytest.approx(float(right.attention[row.layer, index]), abs=LARGEST_ERROR)
    assert len(tables["query_layers"]) == 2 * len(right.layers) + 1
    best = tables["query_ffn_neurons"]["score"].iloc[0]
    assert best == pytest.approx(float(right.ffn.max()), abs=LARGEST_ERROR)
    assert tables["query_value_neurons"].query("skipped")["layer"].size >= right.skipped
