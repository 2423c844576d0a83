"""Silent neurons of ReLU models in lists, the budget of the verified method, and prompts of results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mnemoscope as ms
from mnemoscope.attribution.methods import causal as verified
from mnemoscope.attribution.methods.causal import Verified
from mnemoscope.attribution.methods.registry import method
from support import built, open_tiny, words

IDS = (5, 17, 80, 33, 61)
PROMPT = words(*IDS)
TARGET = 40


@pytest.fixture(scope="module")
def relu() -> ms.Model:
    return open_tiny(built("opt"))


@pytest.mark.parametrize("by", ["direct", "total"])
@pytest.mark.parametrize("neurons", ["top", "all"])
def test_lists_hold_what_raises_or_what_lowers_and_no_silent_neuron(
    relu: ms.Model, neurons: str, by: str
) -> None:
    every = relu.n_layers * relu.d_ff
    found = relu.attribute(PROMPT, TARGET, top=every, neurons=neurons, by=by)
    whole = relu.attribute(PROMPT, TARGET, top=1, neurons="all").ffn_scores
    assert whole is not None
    column = "direct" if by == "direct" else "total"
    raising, lowering = found.ffn_neurons, found.suppressing_ffn_neurons
    assert (raising[column] > 0).all()
    assert (lowering[column] < 0).all()
    assert len(raising) + len(lowering) < every
    if by == "direct":
        (activations,) = relu.language_model.capture([IDS])
        coefficients = activations.coefficients.flatten()
        scores = method("log-probability-increase").scores(
            relu.method_input(PROMPT, TARGET), torch.arange(every)
        )
        assert scores is not None
        assert (coefficients == 0).any()
        assert scores[coefficients == 0].abs().max() < 1e-6
        assert len(raising) == int((scores[coefficients != 0] > 0).sum())
        assert len(lowering) == int((scores[coefficients != 0] < 0).sum())


def test_every_list_says_what_it_says(tiny: ms.Model) -> None:
    found = tiny.attribute(PROMPT, TARGET, top=1000, query=False)
    for name in ("ffn_neurons", "attention_neurons", "attention_neurons_summed", "heads_by_position"):
        assert (getattr(found, name)["direct"] > 0).all(), name
        assert (getattr(found, f"suppressing_{name}")["direct"] < 0).all(), name


@pytest.mark.parametrize("name", ["log-probability-increase", "probability-increase", "log-probability"])
def test_a_proven_list_counts_silent_neurons(relu: ms.Model, name: str) -> None:
    method_input = relu.method_input(PROMPT, TARGET)
    every = method_input.grid.existing
    scores = method(name).scores(method_input, every)
    assert scores is not None
    index, found = method(name).top(method_input, len(every))
    expected = scores.argsort(descending=True, stable=True)
    assert torch.allclose(found, scores[expected], atol=1e-5)
    assert sorted(index.tolist()) == every.tolist()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many interventions each step of the verified method tries."""
    tried, own = [], verified.drops

    def drops(method_input: verified.MethodInput, index: torch.Tensor, *rest: int) -> torch.Tensor:
        tried.append(len(index))
        return own(method_input, index, *rest)

    monkeypatch.setattr(verified, "drops", drops)
    return tried


@pytest.mark.parametrize("greedily", [True, False])
@pytest.mark.parametrize("budget", [10, 11, 12, 19, 30])
def test_verified_keeps_to_its_budget_and_finds_all(
    llama: ms.Model, monkeypatch: pytest.MonkeyPatch, budget: int, greedily: bool
) -> None:
    tried = counted(monkeypatch)
    index, gains = Verified(budget=budget, greedily=greedily).top(llama.method_input(PROMPT, TARGET), 10)
    assert len(set(index.tolist())) == len(gains) == 10
    assert sum(tried) <= budget


@pytest.mark.parametrize("greedily", [True, False])
def test_a_budget_below_the_number_of_neurons_is_refused(llama: ms.Model, greedily: bool) -> None:
    with pytest.raises(ms.OptionError, match="the budget is 3, and 10 neurons are to be chosen"):
        Verified(budget=3, greedily=greedily).top(llama.method_input(PROMPT, TARGET), 10)


def test_query_ablation_is_of_the_token_ids_of_the_result(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, TARGET, top=10, effects=False, suppressing=False, query=False)
    expected = llama.compare_query_ablation(result, top=5, seeds=1)
    # A text that is read as other tokens by itself, such as that of a prompt given as token ids.
    other = replace(result, prompt=words(9))
    found = llama.compare_query_ablation(other, top=5, seeds=1)
    assert found.ablation.before == expected.ablation.before
    assert found.ablation.after == expected.ablation.after
    assert found.ablation.prompt == words(9)
    assert found.ablation.tokens == result.tokens


@pytest.mark.parametrize("neurons", ["top", "all", "bounds"])
def test_a_model_without_an_active_ffn_neuron_is_attributed(neurons: str, tmp_path: Path) -> None:
    silent = built("opt")
    for name, weights in silent.named_parameters():
        if name.endswith("fc1.bias"):
            weights.data.fill_(-50)
    result = open_tiny(silent).attribute(PROMPT, TARGET, neurons=neurons)
    assert len(result.ffn_neurons) == len(result.suppressing_ffn_neurons) == 0
    assert len(result.attention_neurons)
    assert result.telescoping_error == pytest.approx(0, abs=1e-4)
    assert result.query_neurons is not None
    assert len(result.query_neurons.of_ffn.ffn_neurons) == 0
    assert result.save(tmp_path / "report.html").stat().st_size
    assert set(result.charts()) >= {"layers", "neurons"}


def test_a_result_without_attention_neurons_has_query_neurons_of_its_ffn_neurons(llama: ms.Model) -> None:
    whole = llama.attribute(PROMPT, TARGET)
    result = replace(whole, attention_neurons=whole.attention_neurons.head(0))
    found, expected = llama.query(result), llama.query(whole)
    assert found.of_ffn.layers.equals(expected.of_ffn.layers)
    assert (found.of_attention.layers["score"] == 0).all()
    assert len(llama.compare_query_ablation(result, of="ffn", top=3).coefficients)
