"""The comparison with the oracle notices what it should: a changed score, a neuron left out, a lost row."""

from __future__ import annotations

from dataclasses import replace

import pytest

import mnemoscope as ms
from oracle.checks import EVERYTHING, IDS, LARGEST_ERROR, TARGET, TIE, check, prompt
from oracle.scores import Oracle
from oracle.tables import compared
from support import built, open_tiny


@pytest.fixture(scope="module")
def found() -> tuple[ms.Attribution, Oracle]:
    model = built("llama")
    result = open_tiny(model).attribute(prompt(IDS[:3]), TARGET, top=EVERYTHING, neurons="all", effects=False)
    oracle = Oracle(model, IDS[:3], [TARGET])
    check(compared(result, oracle))
    return result, oracle


@pytest.mark.parametrize(
    "name", ["layers", "heads", "heads_by_position", "ffn_neurons", "attention_neurons_summed"]
)
def test_a_changed_score(found: tuple[ms.Attribution, Oracle], name: str) -> None:
    result, oracle = found
    table = getattr(result, name).copy()
    table.loc[0, "direct"] += 1e-4
    assert compared(replace(result, **{name: table}), oracle).errors[name] > LARGEST_ERROR


@pytest.mark.parametrize("name", ["heads_by_position", "ffn_neurons", "suppressing_attention_neurons"])
def test_a_best_one_left_out(found: tuple[ms.Attribution, Oracle], name: str) -> None:
    result, oracle = found
    table = getattr(result, name).drop(index=0)
    assert compared(replace(result, **{name: table}), oracle).disorder[name] > TIE


@pytest.mark.parametrize("name", ["layers", "heads", "ffn_scores", "attention_scores"])
def test_a_row_lost(found: tuple[ms.Attribution, Oracle], name: str) -> None:
    result, oracle = found
    with pytest.raises(AssertionError):
        compared(replace(result, **{name: getattr(result, name).drop(index=0)}), oracle)
