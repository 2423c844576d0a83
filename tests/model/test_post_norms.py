"""Blocks whose outputs pass a norm before they are added to the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

import mnemoscope as ms
from mnemoscope.model.activations import ActivationCache
from support import built, cache_of, open_tiny, word_tokenizer, words

IDS = (5, 17, 80, 33, 61)
PROMPT = words(*IDS)
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


def with_biases() -> PreTrainedModel:
    """An OLMo 2 whose post-norms centre and shift, behind projections with biases."""
    model = built("olmo2")
    for block in model.model.layers:
        for name in POST_NORMS:
            setattr(block, name, nn.LayerNorm(32))
        block.self_attn.o_proj = nn.Linear(32, 32)
        block.mlp.down_proj = nn.Linear(48, 32)
        fresh = (block.self_attn.o_proj, block.mlp.down_proj, *(getattr(block, name) for name in POST_NORMS))
        for weight in (weight for module in fresh for weight in module.parameters()):
            weight.data += 0.3 * torch.randn_like(weight)
    return model


@pytest.fixture(params=["olmo2", "gemma3_text", "with biases"])
def model(request: pytest.FixtureRequest) -> ms.Model:
    return open_tiny(with_biases() if request.param == "with biases" else built(request.param))


def trace_of(model: ms.Model) -> ActivationCache:
    return model.language_model.capture([IDS])[0]


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def test_neurons_and_constants_sum_to_what_is_added(model: ms.Model) -> None:
    activations, structure = trace_of(model), model.language_model.structure
    assert model.validation.worst.error < 1e-5
    cache = cache_of(structure, activations)
    ffn = cache.ffn_neurons
    attention = cache.attention_neurons_summed
    for layer, block in enumerate(structure.blocks):
        for grid, projection, added in (
            (ffn, block.ffn_output, activations.ffn_out),
            (attention, block.attention_output, activations.attention_out),
        ):
            assert projection.norm is not None
            total = (grid.columns(layer, None) * grid.coefficients(layer)).sum(0)
            constant = projection.constant(grid.scale[layer])
            assert close(total if constant is None else total + constant, added[layer])
    after = activations.resid_pre + activations.attention_out + activations.ffn_out
    assert close(after[-1], activations.final_state)


def test_tables_show_what_enters_the_projection(model: ms.Model) -> None:
    result, activations = model.attribute(PROMPT, 40, top=5), trace_of(model)
    assert not torch.allclose(activations.ffn_scale, torch.ones(3), atol=1e-2)
    for row in result.ffn_neurons.itertuples():
        assert row.coefficient == pytest.approx(
            float(activations.coefficients[row.layer, row.neuron]), abs=1e-6
        )
    for row in result.attention_neurons.itertuples():
        values = activations.weighted_values(row.layer)
        assert row.coefficient == pytest.approx(float(values[row.head, row.dim, row.position]), abs=1e-6)


@pytest.mark.parametrize("factor", [0.0, 2.0])
@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_a_layer_is_scaled_behind_its_norm(model: ms.Model, kind: str, factor: float) -> None:
    before = getattr(trace_of(model), f"{kind}_out")[1]
    part = ms.Layer(1, kind)
    with model.ablate([part], factor=factor):
        ablated = getattr(trace_of(model), f"{kind}_out")[1]
    edited = getattr(trace_of(model.edit([part], factor=factor)), f"{kind}_out")[1]
    assert torch.allclose(ablated, factor * before, atol=1e-6)
    assert torch.allclose(edited, factor * before, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_an_edit_equals_an_ablation(model: ms.Model, factor: float) -> None:
    chosen = [ms.FFNNeuron(0, 3), ms.Head(1, 2), ms.Layer(0, "attention"), ms.Layer(2, "ffn")]
    edited = model.edit(chosen, factor=factor)
    assert edited.validation.passed
    with model.ablate(chosen, factor=factor):
        ablated = model.predict(PROMPT, top=97).table.set_index("id")["log_probability"]
    baked = edited.predict(PROMPT, top=97).table.set_index("id")["log_probability"]
    assert baked[ablated.index].tolist() == pytest.approx(ablated.tolist(), abs=1e-4)


class Doubled(Olmo2RMSNorm):
    """A norm that does not do what its formula says."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return 2 * super().forward(hidden_states)


class Wrapped(nn.Module):
    """A norm whose output is changed before it is added."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.linspace(1, 2, 32) * self.norm(hidden_states)


class Unnamed(nn.Module):
    """A norm whose weight has a name that discovery does not look for."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.gamma = norm.weight

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.gamma * nn.functional.rms_norm(hidden_states, (32,))


def _doubled(norm: Any) -> nn.Module:
    wrong = Doubled(32)
    wrong.weight = norm.weight
    return wrong


@pytest.mark.parametrize(
    ("spoil", "failing"),
    [(_doubled, "FFN neurons"), (Wrapped, "residual stream"), (Unnamed, "residual stream")],
)
def test_a_post_norm_that_is_not_understood_is_refused(
    spoil: Callable[[Any], nn.Module], failing: str
) -> None:
    model = built("olmo2")
    block = model.model.layers[1]
    block.post_feedforward_layernorm = spoil(block.post_feedforward_layernorm)
    with pytest.raises(ms.UnsupportedModelError, match=failing):
        ms.load((model, word_tokenizer()))
