"""Mixtures of experts: one projection for all experts, silent ones too, and the model stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mnemoscope as ms
from mnemoscope.intervention.controls import matched_random
from mnemoscope.model.experts import mixtures_of, running_mixtures
from support import built, open_tiny, words

IDS = (5, 17, 80, 33, 5, 61, 9)
PROMPT = words(*IDS)
TARGET = 40
MIXTURES = ["mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3"]


@pytest.fixture(scope="module", params=MIXTURES)
def model(request: pytest.FixtureRequest) -> ms.Model:
    return open_tiny(built(request.param))


@pytest.fixture(scope="module")
def shared() -> ms.Model:
    """Has routed experts, a shared one, and a dense layer in the middle."""
    return open_tiny(built("qwen2_moe"))


def own_logits(model: ms.Model) -> torch.Tensor:
    with torch.no_grad():
        return model.language_model.model(torch.tensor([IDS])).logits[0]


def test_mixtures_give_what_the_models_own_code_gives(model: ms.Model) -> None:
    transformers_model = model.language_model.model
    before = own_logits(model)
    implementation = transformers_model.config._experts_implementation
    with running_mixtures(transformers_model), running_mixtures(transformers_model):
        inside = own_logits(model)
    assert transformers_model.config._experts_implementation == implementation
    assert torch.equal(own_logits(model), before)
    assert torch.allclose(inside, before, atol=1e-5)
    assert not any(module._forward_hooks for module in transformers_model.modules())


def test_a_mixture_is_seen_as_the_neurons_of_all_its_experts(shared: ms.Model) -> None:
    structure = shared.language_model.structure
    assert [structure.n_neurons(layer) for layer in range(3)] == [6 * 16 + 20, 24, 6 * 16 + 20]
    assert structure.d_ff == shared.d_ff == 116
    assert sorted(structure.mixtures) == [0, 2]
    mixture = structure.mixtures[0]
    assert (mixture.n_experts, mixture.d_expert, mixture.n_shared) == (6, 16, 20)


def test_only_experts_that_the_token_is_routed_to_take_part(shared: ms.Model) -> None:
    (activations,) = shared.language_model.capture([IDS])
    assert activations.coefficients.shape == (3, 116)
    assert not activations.coefficients[1, 24:].any()
    routed = activations.coefficients[0, :96].view(6, 16)
    assert int(routed.any(1).sum()) == 2
    assert bool(activations.coefficients[0, 96:].all())


def test_lists_name_the_expert_and_leave_out_the_silent(shared: ms.Model, tmp_path: Path) -> None:
    result = shared.attribute(PROMPT, TARGET, top=400)
    table = result.ffn_neurons
    listed = len(table) + len(result.suppressing_ffn_neurons)
    assert listed == 2 * (2 * 16 + 20) + 24
    assert set(table["expert"][table["layer"] == 1]) == {-1}
    in_mixture = table[table["layer"] == 0]
    routed = in_mixture[in_mixture["neuron"] < 96]
    assert (routed["expert"] == routed["neuron"] // 16).all()
    assert set(in_mixture["expert"][in_mixture["neuron"] >= 96]) == {-1}
    assert result.costs["ffn_neurons"].parts == listed
    assert result.query_neurons is not None
    assert "expert" in result.query_neurons.of_ffn.ffn_neurons
    for ending in ("json", "parquet"):
        loaded = ms.Attribution.load(result.save(tmp_path / f"result.{ending}"))
        assert loaded.ffn_neurons.equals(table)


def test_every_neuron_that_there_is_has_a_score(shared: ms.Model) -> None:
    scores = shared.attribute(PROMPT, TARGET, top=5, neurons="all", query=False).ffn_scores
    assert scores.groupby("layer").size().tolist() == [116, 24, 116]
    silent = scores["coefficient"] == 0
    assert int(silent.sum()) == 2 * 4 * 16
    assert not scores["lower"][silent].any()


def test_a_neuron_beyond_those_of_its_layer_is_refused(shared: ms.Model) -> None:
    with (
        pytest.raises(ms.OptionError, match="neuron goes from 0 to 23"),
        shared.ablate([ms.FFNNeuron(1, 24)]),
    ):
        pass
    with pytest.raises(ms.OptionError, match="neuron goes from 0 to 23"):
        shared.neuron_tokens(1, 24)


def test_random_controls_are_of_the_same_expert(shared: ms.Model) -> None:
    structure = shared.language_model.structure
    parts = [ms.FFNNeuron(0, 20), ms.FFNNeuron(0, 21), ms.FFNNeuron(0, 100), ms.FFNNeuron(1, 3)]
    for seed in range(5):
        drawn: Any = matched_random(parts, structure, seed)
        assert not set(drawn) & set(parts)
        places = sorted((part.layer, part.neuron // 16 if part.layer == 0 else -1) for part in drawn)
        assert places[0] == (0, 1) == places[1]
        assert places[2][1] >= 6
        assert places[3] == (1, -1)


def test_ablating_reaches_the_transformers_model_itself(model: ms.Model) -> None:
    layer = max(model.language_model.structure.mixtures)
    (activations,) = model.language_model.capture([IDS])
    neuron = int(activations.coefficients[layer].abs().argmax())
    before = own_logits(model)
    with model.ablate([ms.FFNNeuron(layer, neuron)], positions=[-1]):
        changed = own_logits(model)
    assert not torch.allclose(changed[-1], before[-1], atol=1e-4)
    assert torch.allclose(changed[:-1], before[:-1], atol=1e-5)
    assert torch.equal(own_logits(model), before)


def test_an_edit_is_one_of_the_experts_own_weights(shared: ms.Model) -> None:
    edited = shared.edit([ms.FFNNeuron(0, 20), ms.FFNNeuron(0, 100)], factor=0.0)
    blocks: Any = [m.language_model.model.get_submodule("model.layers.0.mlp") for m in (shared, edited)]
    own, changed = blocks
    assert not changed.experts.down_proj[1, :, 4].any()
    assert not changed.shared_expert.down_proj.weight[:, 4].any()
    differing = own.experts.down_proj != changed.experts.down_proj
    assert int(differing.sum()) == 32


def test_a_copy_has_mixtures_of_its_own(shared: ms.Model) -> None:
    edited = shared.edit([ms.FFNNeuron(0, 20)], factor=0.0)
    own = {id(mixture.matrix.module) for mixture in mixtures_of(shared.language_model.model)}
    assert not own & {id(mixture.matrix.module) for mixture in mixtures_of(edited.language_model.model)}


@pytest.mark.parametrize(
    "method",
    [
        "log-probability-increase",
        "rank",
        "norm",
        "coefficient",
        "activation-gradient",
        "relp",
        "eap-ig",
        "integrated-gradients",
    ],
)
def test_methods_rank_only_neurons_that_there_are(shared: ms.Model, method: str) -> None:
    table = shared.rank_neurons(PROMPT, TARGET, method=method, top=400).neurons
    assert len(table) >= 128
    assert (table["neuron"][table["layer"] == 1] < 24).all()
    assert set(table["layer"]) == {0, 1, 2}
