"""Gradients through half-precision weights are those of float64, and nothing stays behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import mnemoscope as ms
from mnemoscope.attribution.methods.registry import method
from mnemoscope.model.widening import in_float32
from support import built, open_tiny, words

IDS = (5, 17, 80, 33, 61)
PROMPT = words(*IDS)
TARGET = 40
# Families whose neurons enter a plain module of one name.
DOWN = {"llama": "mlp.down_proj", "gpt2": "mlp.c_proj", "gemma2": "mlp.down_proj", "opt": "fc2"}


def effects_in_float64(model: nn.Module, ending: str) -> torch.Tensor:
    """`m d log p / d m` at every position by plain hooks on a float64 copy, `[n_layers, n_tokens, d_ff]`."""
    wide: Any = copy.deepcopy(model).double()
    wide.set_attn_implementation("eager")
    seen = []

    def keep(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(args[0] if args[0].requires_grad else args[0].requires_grad_())
        return (seen[-1], *args[1:])

    for name, module in wide.named_modules():
        if name.endswith(ending):
            module.register_forward_pre_hook(keep)
    log_p = wide(input_ids=torch.tensor([IDS])).logits[0, -1].log_softmax(-1)[TARGET]
    gradients = torch.autograd.grad(log_p, seen)
    return torch.stack(
        [(m.detach() * g).reshape(len(IDS), -1) for m, g in zip(seen, gradients, strict=True)]
    ).float()


@pytest.mark.parametrize("family", DOWN)
def test_total_effects_of_half_precision_weights_are_those_of_float64(family: str) -> None:
    model = built(family).bfloat16()
    opened = open_tiny(model)
    before = {name: (id(p), p.dtype, p.detach().clone()) for name, p in model.named_parameters()}
    found = opened.method_input(PROMPT, TARGET).total_effects.ffn
    expected = effects_in_float64(model, DOWN[family])
    assert (found - expected).abs().max() < 2e-4 * expected.abs().max()
    for name, parameter in model.named_parameters():
        assert (id(parameter), parameter.dtype) == before[name][:2]
        assert torch.equal(parameter, before[name][2])
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_half_precision_weights_give_the_gradients_of_the_same_weights_in_float32(family: str) -> None:
    half = built(family).bfloat16()
    wide = copy.deepcopy(half).float()
    for name in ("activation-gradient", "integrated-gradients"):
        for kind in ("ffn", "attention"):
            found, expected = (
                method(name).scores(method_input, method_input.grid.existing)
                for method_input in (
                    open_tiny(m).method_input(PROMPT, TARGET, kind=kind) for m in (half, wide)
                )
            )
            assert found is not None
            assert expected is not None
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max(), (name, kind)


def test_interventions_are_in_force_there() -> None:
    half = built("llama").bfloat16()
    parts = [ms.FFNNeuron(0, 3), ms.FFNNeuron(1, 7)]
    with open_tiny(half).ablate(parts) as opened:
        effects = opened.method_input(PROMPT, TARGET).total_effects.ffn
    assert (effects[0, :, 3] == 0).all()
    assert (effects[1, :, 7] == 0).all()
    assert (effects[2] != 0).any()


def test_weights_are_put_back_after_an_error() -> None:
    half = built("llama").bfloat16()
    opened = open_tiny(half)
    with (
        pytest.raises(KeyboardInterrupt),
        in_float32(half, opened.language_model.structure),
    ):
        raise KeyboardInterrupt
    assert all(parameter.dtype == torch.bfloat16 for parameter in half.parameters())
    assert not any("forward" in vars(module) for module in half.modules())
