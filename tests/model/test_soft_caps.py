"""Soft-caps and attention sinks: weights, logits and their changes are the model's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

import mnemoscope as ms
from mnemoscope.model.attention import AttentionCall, QueryKeyCall
from mnemoscope.model.hooks import _attention, observed_attention, register_functions
from mnemoscope.model.readout import CappedLogits, capped
from support import built, open_tiny, word_tokenizer

IDS = torch.tensor([[5, 17, 80, 33, 5, 61, 9], [3, 4, 50, 60, 70, 8, 90]])
CAPPED = ("gemma2", "vaultgemma", "nanochat")


def calls_of(model: PreTrainedModel) -> list[AttentionCall]:
    register_functions()
    calls: list[AttentionCall] = []
    with observed_attention(model, calls.append), torch.no_grad():
        model(IDS)
    return calls


@pytest.mark.parametrize("model_type", ["gemma2", "vaultgemma", "gpt_oss", "gemma3_text"])
def test_attention_weights_are_those_of_the_models_own_eager_attention(model_type: str) -> None:
    model = built(model_type)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(IDS, output_attentions=True).attentions
    for call, weights in zip(calls_of(model), expected, strict=True):
        assert isinstance(call, QueryKeyCall)
        assert torch.allclose(call.patterns(), weights, atol=1e-6)
        last = torch.tensor([6, 4])
        rows = torch.stack([weights[0, :, 6], weights[1, :, 4]])
        assert torch.allclose(call.pattern(last), rows, atol=1e-6)
        assert not call.patterns().triu(1).any()


@pytest.mark.parametrize(("model_type", "setting"), [("gemma2", "softcap"), ("granite_swa", "s_aux")])
def test_what_attention_was_handed_is_in_the_weights(model_type: str, setting: str) -> None:
    call = calls_of(built(model_type))[0]
    assert isinstance(call, QueryKeyCall)
    assert (call.soft_cap is not None, call.sinks is not None) == (setting == "softcap", setting == "s_aux")
    sums = call.patterns().sum(-1)
    assert (sums < 0.99).any() == (setting == "s_aux")
    plain = QueryKeyCall(call.module, call.value, call.query, call.key, call.mask, call.scaling)
    assert (call.patterns() - plain.patterns()).abs().max() > 0.05


def test_a_cap_that_nothing_computes_is_refused_in_words() -> None:
    mask = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ms.UnsupportedModelError, match="Identity has a soft-cap or sinks and no eager"):
        _attention(nn.Identity(), *(torch.zeros(1, 1, 2, 4),) * 3, attention_mask=mask, softcap=3.0)


@pytest.mark.parametrize("model_type", CAPPED)
def test_the_cap_of_logits_is_found_and_matters(model_type: str) -> None:
    model = built(model_type)
    opened = open_tiny(model)
    readout = opened.language_model.structure.readout
    assert readout.soft_cap == 5.0
    assert readout.logit_scale == 1.0
    (activations,) = opened.language_model.capture([IDS[0].tolist()])
    frozen = readout.freeze(activations.final_state)
    with torch.no_grad():
        own = model(IDS[:1]).logits[0, -1]
    assert torch.allclose(
        capped(frozen.uncapped_logits(activations.final_state[None]), frozen.soft_cap)[0], own, atol=1e-5
    )
    assert (frozen.uncapped_logits(activations.final_state[None])[0] - own).abs().max() > 0.3


def test_a_scale_before_the_cap_is_found() -> None:
    model = built("nanochat")
    model.lm_head.register_forward_hook(lambda module, args, output: 1.7 * output)
    readout = open_tiny(model).language_model.structure.readout
    assert readout.logit_scale == pytest.approx(1.7, rel=1e-5)
    assert readout.soft_cap == 5.0


def _not_capped(model: PreTrainedModel) -> None:
    """The config's cap is not what becomes of the logits."""
    model.register_forward_hook(_on_logits(lambda logits: 5 * (logits / 5).atanh()))


def _capped_otherwise(model: PreTrainedModel) -> None:
    """Another function that stays within the cap."""
    model.register_forward_hook(_on_logits(lambda z: (u := 5 * (z / 5).atanh()) / (1 + (u / 5).abs())))


def _scaled_after(model: PreTrainedModel) -> None:
    model.register_forward_hook(_on_logits(lambda logits: 1.5 * logits))


def _on_logits(change: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: dict[str, Tensor]) -> None:
        output["logits"] = change(output["logits"])

    return hook


@pytest.mark.parametrize("spoil", [_not_capped, _capped_otherwise, _scaled_after])
def test_logits_that_the_configs_cap_does_not_give_are_refused(
    spoil: Callable[[PreTrainedModel], None],
) -> None:
    model = built("nanochat")
    spoil(model)
    with pytest.raises(ms.UnsupportedModelError, match="readout"):
        ms.load((model, word_tokenizer()))


finite = st.floats(-300, 300, width=32)


@settings(max_examples=300, deadline=None)
@given(
    before=st.lists(finite, min_size=1, max_size=8),
    added=st.floats(-1, 1, width=32),
    size=st.sampled_from([1e-6, 1e-3, 1.0, 30.0, 300.0]),
    cap=st.sampled_from([2.0, 5.0, 30.0, 50.0]),
)
def test_changes_of_capped_values_are_precise(
    before: list[float], added: float, size: float, cap: float
) -> None:
    start, step = torch.tensor(before), torch.tensor(added * size)
    found = CappedLogits(cap, start[None]).change(step.expand(len(before)), 0).double()
    expected = change_in_float64(start, step, cap)
    # The slope 1 - tanh^2 is rounded as tanh is.
    assert ((found - expected).abs() <= 1e-6 * expected.abs() + 3e-7 * step.abs() + 1e-38).all()


def change_in_float64(before: Tensor, added: Tensor, cap: float) -> Tensor:
    before, added = before.double(), added.double()
    slope = (before / cap).cosh().pow(-2)
    tanh = (added / cap).tanh()
    direct = capped(before + added, cap) - capped(before, cap)
    return torch.where(
        added.abs() < 1e-3 * cap, cap * slope * tanh / (1 + (before / cap).tanh() * tanh), direct
    )
