"""That the planted models hold their facts where they say, and that the trained one knows its own."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM

import mnemoscope as ms
from mnemoscope.testing import (
    Architecture,
    Planted,
    PlantedFact,
    Trained,
    backup_pair,
    planted_model,
    trained_model,
)

ARCHITECTURES: tuple[Architecture, ...] = ("gpt2", "llama")


@dataclass(frozen=True)
class Opened:
    """A planted model, validated by opening it."""

    planted: Planted
    model: ms.Model

    @property
    def facts(self) -> tuple[PlantedFact, ...]:
        return self.planted.facts


def opened(planted: Planted) -> Opened:
    return Opened(planted, ms.load((planted.model, planted.tokenizer)))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def garden(request: pytest.FixtureRequest) -> Opened:
    return opened(planted_model(request.param))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest) -> Opened:
    return opened(backup_pair(request.param))


@pytest.fixture(scope="module")
def trained() -> Trained:
    return trained_model()


def neurons(fact: PlantedFact) -> list[ms.FFNNeuron]:
    return [ms.FFNNeuron(*place) for place in fact.ffn_neurons]


def rows(table: pd.DataFrame, *columns: str) -> list[tuple[int, ...]]:
    return list(zip(*(table[name].tolist() for name in columns), strict=True))


def log_probability(model: ms.Model, fact: PlantedFact, *removed: ms.FFNNeuron) -> float:
    if not removed:
        table = model.predict(fact.prompt, top=97).table
    else:
        with model.ablate(removed):
            table = model.predict(fact.prompt, top=97).table
    (value,) = table.loc[table["token"] == fact.target.strip(), "log_probability"]
    return value


def weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_planted_models_are_stock_and_pass_the_proof(garden: Opened) -> None:
    assert type(garden.planted.model) in (GPT2LMHeadModel, LlamaForCausalLM)
    assert garden.model.language_model.validation.passed


def test_planted_facts_are_predicted_with_the_probability_asked_for(garden: Opened) -> None:
    for fact in garden.facts:
        first, second = garden.model.predict(fact.prompt, top=2).table.itertuples()
        assert first.token == fact.target.strip()
        assert first.probability == pytest.approx(0.8, abs=1e-3)
        assert second.probability < 0.15


def test_facts_differ_in_answers_and_neurons_and_have_the_subject_in_the_middle(garden: Opened) -> None:
    facts = garden.facts
    assert len({fact.target for fact in facts}) == len(facts) == 6
    assert len({place for fact in facts for place in fact.ffn_neurons}) == 6 * 3
    subjects = {fact.prompt.split()[fact.subject_position] for fact in facts}
    assert len(subjects) == 6
    for fact in facts:
        assert 0 < fact.subject_position < len(fact.prompt.split()) - 2


def test_nothing_is_exactly_zero(garden: Opened) -> None:
    assert (weights(garden.planted.model) != 0).all()


def test_removing_the_planted_neurons_destroys_the_fact_and_random_ones_do_not(garden: Opened) -> None:
    for fact in garden.facts:
        result = garden.model.compare_ablation(fact.prompt, fact.target, neurons(fact))
        assert result.after["reciprocal_rank"] < 1
        assert result.after["probability"] < 0.1
        assert (result.controls["reciprocal_rank"] == 1).all()
        assert (result.controls["probability"] > 0.7).all()


def test_removing_the_planted_head_destroys_the_fact_and_random_ones_do_not(garden: Opened) -> None:
    for fact in garden.facts:
        heads = [ms.Head(*place) for place in fact.heads]
        result = garden.model.compare_ablation(fact.prompt, fact.target, heads)
        assert result.after["reciprocal_rank"] < 1
        assert result.after["probability"] < 0.05
        assert (result.controls["reciprocal_rank"] == 1).all()


def test_removing_the_planted_attention_neuron_destroys_its_fact_only(garden: Opened) -> None:
    for fact in garden.facts:
        removed = [ms.AttentionNeuron(*place) for place in fact.attention_neurons]
        with garden.model.ablate(removed):
            for other in garden.facts:
                first = garden.model.predict(other.prompt, top=1).table["token"].item()
                assert (first == other.target.strip()) == (other is not fact)


def test_the_planted_head_looks_at_the_subject(garden: Opened) -> None:
    for fact in garden.facts:
        first = garden.model.attribute(fact.prompt, fact.target, top=1).heads_by_position.iloc[0]
        assert (first["layer"], first["head"]) == fact.heads[0]
        assert first["position"] == fact.subject_position
        assert first["attention"] > 0.95


def test_attribution_finds_exactly_the_planted_parts(garden: Opened) -> None:
    for fact in garden.facts:
        result = garden.model.attribute(fact.prompt, fact.target, top=3)
        assert set(rows(result.ffn_neurons, "layer", "neuron")) == set(fact.ffn_neurons)
        assert rows(result.heads, "layer", "head")[0] == fact.heads[0]
        summed = rows(result.attention_neurons_summed, "layer", "head", "dim")
        assert summed[0] == fact.attention_neurons[0]


def test_a_backup_hides_what_removing_one_neuron_costs(pair: Opened) -> None:
    (fact,) = pair.facts
    first, second = neurons(fact)
    whole = log_probability(pair.model, fact)
    assert whole == pytest.approx(log_probability(pair.model, fact, first), abs=0.05)
    assert whole == pytest.approx(log_probability(pair.model, fact, second), abs=0.05)
    assert log_probability(pair.model, fact, first, second) < whole - 2


def test_direct_effects_see_only_the_first_of_a_backup_pair(pair: Opened) -> None:
    (fact,) = pair.facts
    assert first_order_drop(pair, fact)[0] > 0.5
    assert abs(first_order_drop(pair, fact)[1]) < 0.05
    found = pair.model.attribute(fact.prompt, fact.target, top=1).ffn_neurons
    assert rows(found, "layer", "neuron") == [fact.ffn_neurons[0]]
    assert found["direct"].item() > 2


def first_order_drop(planted: Opened, fact: PlantedFact) -> list[float]:
    """Activation times gradient of log p(target), of each planted neuron over all positions."""
    coefficients: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        coefficients.append(args[0])

    blocks = planted.model.language_model.structure.blocks
    handles = [block.ffn_output.module.register_forward_pre_hook(keep) for block in blocks]
    ids = planted.planted.tokenizer(fact.prompt, return_tensors="pt").input_ids
    target = planted.planted.tokenizer(fact.target).input_ids[0]
    log_p = planted.planted.model(input_ids=ids).logits[0, -1].log_softmax(-1)[target]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(log_p, coefficients)
    products = [(c * g).sum(dim=(0, 1)) for c, g in zip(coefficients, gradients, strict=True)]
    return [products[layer][neuron].item() for layer, neuron in fact.ffn_neurons]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gradient_of_a_saturated_answer_vanishes(architecture: Architecture) -> None:
    saturated = opened(planted_model(architecture, probability=0.9999))
    for fact in saturated.facts:
        whole = log_probability(saturated.model, fact)
        assert torch.tensor(whole).exp() > 0.999
        assert sum(first_order_drop(saturated, fact)) < 0.01
        assert log_probability(saturated.model, fact, *neurons(fact)) < whole - 2


def test_the_trained_model_knows_its_facts_and_loses_them_with_its_top_neurons(trained: Trained) -> None:
    model = ms.load((trained.model, trained.tokenizer))
    assert len({fact.prompt for fact in trained.facts}) == 30
    results = []
    for fact in trained.facts[::3]:
        found = model.attribute(fact.prompt, fact.target, top=10, suppressing=False).ffn_neurons
        results.append(model.compare_ablation(fact.prompt, fact.target, found, seeds=3))
    assert fmean(result.before["reciprocal_rank"] == 1 for result in results) >= 0.9
    before, after = (
        fmean(getattr(result, when)["log_probability"] for result in results) for when in ("before", "after")
    )
    controls = fmean(result.controls_mean["log_probability"] for result in results)
    assert before - after > 5 * abs(before - controls)
    assert before - after > 0.05


def few_steps(seed: int) -> Trained:
    return trained_model(n_facts=6, steps=3, seed=seed)


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: planted_model("gpt2", seed=seed),
        lambda seed: planted_model("llama", seed=seed),
        lambda seed: backup_pair("llama", seed=seed),
        few_steps,
    ],
    ids=["gpt2", "llama", "backup", "trained"],
)
def test_a_seed_decides_everything_and_the_global_state_nothing(build) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = build(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = build(0), build(1)
    assert torch.equal(weights(one.model), weights(again.model))
    assert one.facts == again.facts
    assert not torch.equal(weights(one.model), weights(other.model))
    assert one.facts != other.facts


def test_what_cannot_be_planted_is_refused() -> None:
    with pytest.raises(ms.OptionError, match="architecture is 'bert'"):
        planted_model("bert")
    with pytest.raises(ms.OptionError, match="n_facts is 17"):
        planted_model(n_facts=17)
    with pytest.raises(ms.OptionError, match="n_neurons is 0"):
        planted_model(n_neurons=0)
    with pytest.raises(ms.OptionError, match=r"probability is 1\.0"):
        backup_pair(probability=1.0)
    with pytest.raises(ms.OptionError, match="n_facts is 121"):
        trained_model(n_facts=121)
