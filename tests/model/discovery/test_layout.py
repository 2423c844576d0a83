"""What a block adds and what its FFN reads, found by arithmetic or refused."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

import mnemoscope as ms
from mnemoscope.model.families.registry import FAMILIES
from mnemoscope.model.structure import ModelStructure, discover
from mnemoscope.model.validation import probe_tokens, validate
from support import built, open_tiny, words

PROMPT = words(5, 17, 80, 33, 61)


def found(model: PreTrainedModel) -> ModelStructure:
    return discover(model, probe_tokens(model))


def multipliers(structure: ModelStructure) -> list[tuple[float, float]]:
    return [(b.attention_output.multiplier, b.ffn_output.multiplier) for b in structure.blocks]


def multiplied(model: PreTrainedModel, layer: int, name: str, factor: float) -> None:
    """Multiply the output of a module that contains others, where no leaf can see it."""
    module = model.model.layers[layer].get_submodule(name)

    def hook(module: nn.Module, args: object, output: object) -> object:
        return (factor * output[0], *output[1:]) if isinstance(output, tuple) else factor * output

    module.register_forward_hook(hook)


def test_the_multipliers_of_granite_are_found() -> None:
    model = next(f for f in FAMILIES if f.variant == "multipliers, biases").build()
    structure = found(model)
    assert torch.tensor(multipliers(structure)) == pytest.approx(torch.full((3, 2), 0.5), rel=1e-6)
    assert structure.readout.logit_scale == pytest.approx(1 / 3, rel=1e-6)
    assert not structure.parallel
    half = found(model.bfloat16())
    assert torch.tensor(multipliers(half)) == pytest.approx(torch.full((3, 2), 0.5), rel=2e-3)
    assert half.readout.logit_scale == pytest.approx(1 / 3, rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_where_nothing_is_multiplied_the_multiplier_is_exactly_one(dtype: torch.dtype) -> None:
    for model_type in ("llama", "gpt_neox", "opt", "gemma3_text"):
        structure = found(built(model_type).to(dtype))
        assert multipliers(structure) == [(1, 1)] * 3
        assert structure.readout.logit_scale == 1


@pytest.mark.parametrize("factor", [0.03, 0.5, 7.0, -0.5])
def test_each_layer_has_its_own(factor: float) -> None:
    model = built("llama")
    multiplied(model, 1, "self_attn", factor)
    multiplied(model, 2, "mlp", 2 * factor)
    model.lm_head.register_forward_hook(lambda module, args, output: 3 * output)
    structure = found(model)
    expected = torch.tensor([(1, 1), (factor, 1), (1, 2 * factor)])
    assert torch.tensor(multipliers(structure)) == pytest.approx(expected, rel=1e-6)
    assert structure.readout.logit_scale == pytest.approx(3, rel=1e-6)
    assert validate(model, structure).worst.error < 1e-5
    assert all(block.input_projections is not None for block in structure.blocks)


def test_parallel_blocks_have_multipliers_too() -> None:
    model = built("cohere")
    multiplied(model, 1, "self_attn", 0.4)
    multiplied(model, 1, "mlp", 0.7)
    structure = found(model)
    assert structure.parallel
    assert torch.tensor(multipliers(structure)[1]) == pytest.approx(torch.tensor([0.4, 0.7]), rel=1e-5)
    assert validate(model, structure).worst.error < 1e-5


def test_giant_elements_of_the_stream_do_not_blur_the_multipliers() -> None:
    """Real models have elements thousands of times larger than the others, which round coarsely."""
    model = next(f for f in FAMILIES if f.variant == "multipliers of stream and logits").build()
    model.model.embed_tokens.weight.data[:, 3] = 3000
    for dtype in (torch.float32, torch.bfloat16):
        structure = found(model.to(dtype))
        assert torch.tensor(multipliers(structure)) == pytest.approx(torch.full((3, 2), 0.5), rel=5e-3)


def _shifted_ffn(model: PreTrainedModel) -> None:
    """The FFN reads something else than either state."""
    for layer in model.model.layers:
        layer.post_attention_layernorm.register_forward_pre_hook(lambda module, args: (args[0] + 1.0,))


def _ffn_of_embeddings(model: PreTrainedModel) -> None:
    kept: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: kept.append(output))
    for layer in model.model.layers[1:]:
        layer.post_attention_layernorm.register_forward_pre_hook(lambda module, args: (kept[-1],))


@pytest.mark.parametrize("spoil", [_shifted_ffn, _ffn_of_embeddings])
def test_a_block_that_is_neither_sequential_nor_parallel_is_refused(
    spoil: Callable[[PreTrainedModel], None],
) -> None:
    model = built("llama")
    spoil(model)
    with pytest.raises(ms.UnsupportedModelError, match="nothing reads the residual stream"):
        open_tiny(model)


def test_blocks_of_both_kinds_in_one_model_are_refused() -> None:
    model = built("llama")
    layer, kept = model.model.layers[1], []
    layer.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    layer.post_attention_layernorm.register_forward_pre_hook(lambda module, args: (kept[-1],))
    with pytest.raises(ms.UnsupportedModelError, match="of some layers"):
        open_tiny(model)


def test_layers_may_differ_in_their_number_of_neurons() -> None:
    transformers_model = built("llama")
    mlp = transformers_model.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = nn.Linear(32, 40), nn.Linear(32, 40), nn.Linear(40, 32)
    model = open_tiny(transformers_model)
    prompt = words(5, 17, 80)
    found, every = (model.attribute(prompt, 40, top=200, neurons=how) for how in ("top", "all"))
    listed = pd.concat([found.ffn_neurons, found.suppressing_ffn_neurons])
    assert listed.groupby("layer").size().tolist() == [48, 40, 48]
    assert found.ffn_neurons[["layer", "neuron"]].equals(every.ffn_neurons[["layer", "neuron"]])


def test_a_norm_that_mixes_heads_before_their_projection_is_refused() -> None:
    model = built("llama")
    attention = model.model.layers[0].self_attn
    attention.o_proj = nn.Sequential(nn.LayerNorm(32), attention.o_proj)
    with pytest.raises(ms.UnsupportedModelError, match="norm between its heads"):
        open_tiny(model)


def test_a_layer_that_adds_nothing_is_wired_like_the_others() -> None:
    model = next(f for f in FAMILIES if f.variant == "multipliers of stream and logits").build()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        model.model.layers[0].get_submodule(name).weight.data.zero_()
    structure = found(model)
    assert not structure.parallel
    assert torch.tensor(multipliers(structure)) == pytest.approx(torch.full((3, 2), 0.5), rel=1e-6)


def test_a_layer_is_scaled_at_what_it_adds() -> None:
    model = open_tiny(next(f for f in FAMILIES if f.variant == "multipliers, biases").build())
    ids = [5, 17, 80, 33, 61]
    (before,) = model.language_model.capture([ids])
    with model.ablate([ms.Layer(1, "ffn")], factor=0.5):
        (after,) = model.language_model.capture([ids])
    assert torch.allclose(after.ffn_out[1], 0.5 * before.ffn_out[1], atol=1e-6)
    table = model.attribute(PROMPT, 40, top=48, neurons="all").ffn_neurons
    shown = {(row.layer, row.neuron): row.coefficient for row in table.itertuples()}
    for (layer, neuron), coefficient in shown.items():
        assert coefficient == pytest.approx(float(before.coefficients[layer, neuron]), abs=1e-6)
