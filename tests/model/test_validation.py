"""The proof passes on every family and fails on everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, MambaConfig, PreTrainedModel

import mnemoscope as ms
from mnemoscope.model.families.registry import FAMILIES
from mnemoscope.model.hooks import _attention
from mnemoscope.model.readout import Norm
from mnemoscope.model.structure import discover
from mnemoscope.model.validation import probe_tokens, require, validate
from support import EVERY_REPRESENTATIVE, built, open_tiny, word_tokenizer


def test_every_family_is_proven(tiny: ms.Model) -> None:
    assert tiny.validation.passed
    assert {check.name for check in tiny.validation.checks} == {
        "attention function",
        "causality",
        "attention neurons",
        "FFN neurons",
        "residual stream",
        "readout",
    }
    assert tiny.validation.worst.error < 1e-5


def _llama() -> PreTrainedModel:
    return next(f for f in FAMILIES if f.variant == "grouped heads").build()


class Scaled(nn.Module):
    """A module whose output is multiplied with something."""

    def __init__(self, module: nn.Module, factor: float | torch.Tensor) -> None:
        super().__init__()
        self.inner = module
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.inner(x)


def _weigh_block_output(model: PreTrainedModel) -> None:
    """What is added is no constant times the output."""
    layer = model.model.layers[1]
    layer.mlp = Scaled(layer.mlp, torch.linspace(0.5, 1.5, 32))


def _weigh_logits(model: PreTrainedModel) -> None:
    factors = torch.linspace(0.5, 1.5, 97)
    model.lm_head.register_forward_hook(lambda module, args, output: factors * output)


def _turn_logits(model: PreTrainedModel) -> None:
    model.lm_head.register_forward_hook(lambda module, args, output: -output)


def _soft_cap(model: PreTrainedModel) -> None:
    model.lm_head.register_forward_hook(lambda module, args, output: 5 * torch.tanh(output / 5))


def _shift_stream(model: PreTrainedModel) -> None:
    model.model.layers[2].register_forward_pre_hook(lambda module, args: (args[0] + 1.0,))


def _scale_heads(model: PreTrainedModel) -> None:
    """A gate between the heads and their projection."""
    o_proj = model.model.layers[0].self_attn.o_proj
    o_proj.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def _odd_norm(model: PreTrainedModel) -> None:
    model.model.norm.register_forward_hook(lambda module, args, output: output.sign() * output**2)


WRONG: dict[str, tuple[Callable[[PreTrainedModel], None], str]] = {
    "weighed output": (_weigh_block_output, "residual stream"),
    "weighed logits": (_weigh_logits, "readout"),
    "negative logit scale": (_turn_logits, "readout"),
    "soft-cap": (_soft_cap, "readout"),
    "extra write": (_shift_stream, "residual stream"),
    "gated heads": (_scale_heads, "attention neurons"),
    "unknown norm": (_odd_norm, "readout"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_does_not_add_up_is_refused_with_the_sum_that_failed(name: str) -> None:
    spoil, failing = WRONG[name]
    model = _llama()
    spoil(model)
    with pytest.raises(ms.UnsupportedModelError, match=failing) as caught:
        ms.load((model, word_tokenizer()))
    assert "off by" in str(caught.value)


def _masked() -> PreTrainedModel:
    """A model whose head has biases of -1e9 at a fifth of its tokens, as for padded vocabularies."""
    model = _llama()
    head = nn.Linear(32, 97)
    head.weight.data.copy_(model.lm_head.weight.data)
    head.bias.data.zero_()[78:] = -1e9
    model.lm_head = head
    return model


def _massive(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model with a massive activation in one dim of the stream, as trained ones have."""
    model = _llama()
    for layer in model.model.layers[:2]:
        layer.mlp.down_proj.weight.data[3] *= 3000
        layer.self_attn.o_proj.weight.data[9] *= 3000
    return model.to(dtype)


def _own_log_probabilities(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


def _read_out(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    opened = ms.load((model, word_tokenizer())).language_model
    (activations,) = opened.capture([ids])
    return opened.structure.readout.log_probabilities(activations.final_state[None])[0].double()


def test_masked_and_massive_models_are_opened_and_read_out_right() -> None:
    ids = [5, 17, 80, 33]
    found, expected = _read_out(_masked(), ids), _own_log_probabilities(_masked(), ids)
    assert torch.allclose(found[:78], expected[:78], rtol=0, atol=1e-4)
    found, expected = _read_out(_massive(), ids), _own_log_probabilities(_massive(), ids)
    assert float(expected.std()) > 0.1
    assert torch.allclose(found, expected, rtol=0, atol=1e-4)
    for dtype in (torch.bfloat16, torch.float16):
        assert ms.load((_massive(dtype), word_tokenizer())).validation.passed


def _raise_logit(model: PreTrainedModel) -> None:
    model.lm_head.register_forward_hook(lambda module, args, output: output + 5.0 * (torch.arange(97) == 7))


def _see_the_future(model: PreTrainedModel) -> None:
    """One logit answers to the last token of the prompt, wherever it is read."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + args[0][:, -1:, :1] * (torch.arange(97) == 7)

    model.lm_head.register_forward_hook(hook)


def _shift(name: str) -> Callable[[PreTrainedModel], None]:
    """A module gives a little more in one dim, by what it is given."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + 0.03 * args[0][..., :1].tanh() * (torch.arange(32) == 5)

    return lambda model: model.get_submodule(name).register_forward_hook(hook) and None


HIDDEN: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[PreTrainedModel], None], str]] = {
    "a logit beside masked ones": (_masked, _raise_logit, "readout"),
    "the future beside masked logits": (_masked, _see_the_future, "not causal"),
    "attention beside a massive activation": (
        _massive,
        _shift("model.layers.1.self_attn.o_proj"),
        "attention n",
    ),
    "an FFN beside a massive activation": (_massive, _shift("model.layers.1.mlp.down_proj"), "FFN neurons"),
    "the stream beside a massive activation": (_massive, _shift("model.layers.1"), "residual stream"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_large_entry_hides_no_error_in_another(name: str) -> None:
    make, spoil, failing = HIDDEN[name]
    model = make()
    spoil(model)
    with pytest.raises(ms.UnsupportedModelError, match=failing):
        ms.load((model, word_tokenizer()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_norm_is_recognised_beside_a_massive_activation(kind: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(9, 512, generator=generator)
    states[:, 3] *= 10_000
    module: nn.Module = nn.RMSNorm(512, eps=1e-6) if kind == "rms" else nn.LayerNorm(512, eps=1e-6)
    module.weight.data.normal_(generator=generator)
    states, module = states.to(dtype), module.to(dtype)
    norm, _ = Norm.recognise(module, states, module(states).detach())
    assert (norm.kind, norm.offset) == (kind, 0.0)


def test_a_wrong_anatomy_is_found_out() -> None:
    model = _llama()
    structure = discover(model, probe_tokens(model))
    swapped = [replace(block, ffn_output=structure.blocks[0].ffn_output) for block in structure.blocks]
    proof = validate(model, replace(structure, blocks=tuple(swapped)))
    assert not proof.passed


def test_a_missing_mask_is_not_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="not be causal"):
        _attention(nn.Identity(), *(torch.zeros(1, 1, 2, 4),) * 3, attention_mask=None)


def test_a_model_that_sees_the_future_is_refused() -> None:
    model = _llama()

    def leak(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": torch.zeros_like(kwargs["attention_mask"])}

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(leak, with_kwargs=True)
    model.config._attn_implementation = "eager"
    with pytest.raises(ms.UnsupportedModelError, match="not causal"):
        ms.load((model, word_tokenizer()))


def test_nan_weights_are_named() -> None:
    model = _llama()
    model.model.layers[1].mlp.down_proj.weight.data[3, 4] = torch.nan
    with pytest.raises(ms.UnsupportedModelError, match=r"NaN.*layers\.1\.mlp\.down_proj"):
        ms.load((model, word_tokenizer()))


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.nightly) for n in (1, 2))])
def test_half_precision_weights_pass_with_a_wider_tolerance(seed: int) -> None:
    for family in EVERY_REPRESENTATIVE:
        for dtype in (torch.bfloat16, torch.float16):
            model = family.build(seed).to(dtype)
            proof = validate(model, discover(model, probe_tokens(model)))
            require(proof, model)
            assert proof.passed


def test_an_encoder_is_refused_in_words() -> None:
    config = BertConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
    )
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ms.UnsupportedModelError, match="encoder-only"):
        ms.load((model, word_tokenizer()))


def test_an_encoder_decoder_is_refused_in_words() -> None:
    config = AutoConfig.for_model(
        "bart",
        vocab_size=97,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.config.is_encoder_decoder = True
    with pytest.raises(ms.UnsupportedModelError, match="encoder-decoder"):
        ms.load((model, word_tokenizer()))


def test_a_state_space_model_is_refused_in_words() -> None:
    config = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ms.UnsupportedModelError, match="state-space"):
        ms.load((model, word_tokenizer()))


def test_parallel_blocks_are_told_from_sequential_ones() -> None:
    model = _llama()
    assert not discover(model, probe_tokens(model)).parallel
    opened = open_tiny(built("gpt_neox"))
    assert opened.language_model.structure.parallel
    assert opened.validation.passed
