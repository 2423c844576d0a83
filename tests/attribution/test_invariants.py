"""What must hold on every architecture (docs/method.md)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.attribution.scores import base_states
from mnemoscope.model.activations import ActivationCache
from mnemoscope.model.families.registry import Family
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.objective import Objective
from mnemoscope.model.readout import capped
from support import EVERY_REPRESENTATIVE, cache_of, chosen_on_push, open_tiny, words

PROMPT = (5, 17, 80, 33, 5, 61, 9)


def trace_of(model: ms.Model, prompt: tuple[int, ...] = PROMPT) -> tuple[LanguageModel, ActivationCache]:
    language_model = model.language_model
    return language_model, language_model.capture([prompt])[0]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def test_the_readout_of_the_final_state_is_the_models_own_prediction(tiny: ms.Model) -> None:
    language_model, activations = trace_of(tiny)
    with torch.no_grad():
        logits = language_model.model(torch.tensor([PROMPT])).logits[0, -1]
    frozen = language_model.structure.readout.freeze(activations.final_state)
    found = capped(frozen.uncapped_logits(activations.final_state[None]), frozen.soft_cap)[0]
    assert close(found, logits)
    assert close(frozen.log_probabilities(activations.final_state[None])[0], logits.log_softmax(-1))


def test_embeddings_and_all_parts_sum_to_the_final_state(tiny: ms.Model) -> None:
    language_model, activations = trace_of(tiny)
    structure = language_model.structure
    cache = cache_of(structure, activations)
    total = activations.resid_pre[0].clone()
    ffn = cache.ffn_neurons
    attention = cache.attention_neurons
    for layer, block in enumerate(structure.blocks):
        total += (ffn.columns(layer, None) * ffn.coefficients(layer)).sum(0)
        by_position = attention.coefficients(layer)[:, :-1].sum(1, keepdim=True)
        total += (attention.columns(layer, None) * by_position).sum(0)
        for constant in (
            block.attention_output.constant(activations.attention_scale[layer]),
            block.ffn_output.constant(activations.ffn_scale[layer]),
        ):
            total += 0 if constant is None else constant
    assert close(total, activations.final_state)


def test_heads_are_the_sum_of_their_neurons_and_of_their_positions(tiny: ms.Model) -> None:
    language_model, activations = trace_of(tiny)
    structure = language_model.structure
    cache = cache_of(structure, activations)
    heads = cache.heads
    positions = cache.heads_at_positions
    neurons = cache.attention_neurons
    for layer in range(structure.n_layers):
        whole = heads.columns(layer, None) * heads.coefficients(layer)
        by_position = positions.columns(layer, None) * positions.coefficients(layer)
        by_position = by_position.view(structure.n_heads, len(PROMPT), -1)
        by_neuron = neurons.columns(layer, None) * neurons.coefficients(layer)[:, -1:]
        assert close(by_position.sum(1), whole)
        assert close(by_neuron.view(structure.n_heads, structure.d_head, -1).sum(1), whole)


def test_attention_looks_back_only_and_sums_to_one(tiny: ms.Model) -> None:
    _, activations = trace_of(tiny)
    sums = activations.patterns.sum(-1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
    assert activations.patterns.shape[-1] == len(PROMPT)


def test_layer_scores_telescope(tiny: ms.Model) -> None:
    result = tiny.attribute(words(*PROMPT), 40, top=3)
    if tiny.language_model.structure.parallel:  # both are added to the same state, so nothing telescopes
        assert result.telescoping_error is None
        return
    language_model, activations = trace_of(tiny)
    frozen = language_model.structure.readout.freeze(activations.final_state)
    ends = frozen.log_probabilities(torch.stack([activations.final_state, activations.resid_pre[0]]))[:, 40]
    assert abs(result.layers["direct"].sum() - float(ends[0] - ends[1])) < 1e-4
    assert result.telescoping_error is not None
    assert abs(result.telescoping_error) < 1e-4


def test_layer_scores_follow_their_definition(tiny: ms.Model) -> None:
    language_model, activations = trace_of(tiny)
    frozen = language_model.structure.readout.freeze(activations.final_state)
    base = base_states(activations)
    values = Objective((40,)).value(frozen.log_probabilities(base.states))
    found = base.layer_scores(values)

    def log_p(states: Tensor) -> Tensor:
        return frozen.log_probabilities(states)[:, 40]

    mid = activations.resid_pre + activations.attention_out
    base = activations.resid_pre if language_model.structure.parallel else mid
    expected = torch.stack(
        [log_p(mid) - log_p(activations.resid_pre), log_p(base + activations.ffn_out) - log_p(base)], dim=1
    )
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_batch_gives_what_single_prompts_give(tiny: ms.Model) -> None:
    prompts = [PROMPT, (50, 60, 70, 80, 90, 10, 20), PROMPT[::-1]]
    together = tiny.language_model.capture(prompts)
    for prompt, batched in zip(prompts, together, strict=True):
        (alone,) = tiny.language_model.capture([prompt])
        for name, value in vars(alone).items():
            if isinstance(value, Tensor):
                assert getattr(batched, name).shape == value.shape
                assert torch.allclose(getattr(batched, name).float(), value.float(), rtol=1e-3, atol=1e-4)


def test_certified_lists_equal_exhaustive_ones(tiny: ms.Model) -> None:
    prompt = words(*PROMPT)
    certified = tiny.attribute(prompt, 40, top=12)
    exhaustive = tiny.attribute(prompt, 40, top=12, neurons="all")
    for name, table in certified.tables().items():
        if not name.endswith("_scores"):
            assert table.equals(exhaustive.tables()[name]), name


@pytest.mark.parametrize(
    "family", chosen_on_push(EVERY_REPRESENTATIVE, "gpt2", "llama-grouped_heads", "gemma2", "granite")
)
def test_half_precision_weights_are_scored_in_float32(family: Family) -> None:
    model = open_tiny(family.build().to(torch.bfloat16))
    certified = model.attribute(words(*PROMPT), 40, top=5)
    exhaustive = model.attribute(words(*PROMPT), 40, top=5, neurons="all")
    assert certified.provenance.dtype == "bfloat16"
    assert certified.ffn_neurons.equals(exhaustive.ffn_neurons)
    assert certified.ffn_neurons["direct"].dtype == "float32"
    widened = open_tiny(family.build().to(torch.bfloat16).float())
    same = widened.attribute(words(*PROMPT), 40, top=5).target
    assert abs(same.log_probability - certified.target.log_probability) < 0.3


def test_intervals_hold_the_exact_scores_and_their_sum(tiny: ms.Model) -> None:
    prompt = words(*PROMPT)
    exhaustive = tiny.attribute(prompt, 40, top=2, neurons="all")
    intervals = tiny.attribute(prompt, 40, top=2, neurons="bounds")
    for name in ("ffn_scores", "attention_scores"):
        exact, bounds = exhaustive.tables()[name], intervals.tables()[name]
        assert (exact["lower"] == exact["upper"]).all()
        assert (bounds["lower"] <= exact["lower"]).all()
        assert (bounds["upper"] >= exact["upper"]).all()
    for kind in ("ffn", "attention"):
        lower, upper = intervals.sum_of_scores(kind)
        exact_sum, same = exhaustive.sum_of_scores(kind)
        assert lower <= exact_sum == same <= upper
