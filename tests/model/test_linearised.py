"""The backward pass of RelP: equal to another implementation, linear, and gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, silu
from transformers import PreTrainedModel

import mnemoscope as ms
from mnemoscope.model.components import capture_components
from mnemoscope.model.families.registry import FAMILIES
from mnemoscope.model.gradients import SiteGradients, _differentiate, site_gradients
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.linearised import linearised_blocks, proportional, refuse_nonlinear
from model.relp_in_float64 import relp_in_float64
from support import built, chosen_on_push, differing, open_tiny

PROMPTS = ((5, 17, 80, 33, 61), (7, 11, 3, 22, 40))
# Learned positions and ReLU, parallel blocks, LayerNorm, inner norms, post-norms, soft-caps, query/key norms,
# multipliers, experts.
COMPARED = (
    "gpt2", "gpt_neox", "opt", "llama", "bitnet", "gemma2", "gemma3_text", "olmo2", "qwen3", "granite",
    "cohere", "mixtral", "qwen2_moe",
)  # fmt: skip
WITHOUT_BIASES = ("llama", "bitnet", "gemma2", "olmo2", "qwen3", "granite", "mixtral", "qwen2_moe")


def log_odds(logits: Tensor) -> Tensor:
    """Logit of one token less that of another, other tokens for each prompt."""
    rows = torch.arange(len(logits))
    return logits[rows, 40 + rows] - logits[rows, 50 + rows]


def opened(model: PreTrainedModel) -> LanguageModel:
    return open_tiny(model).language_model


def relp(language_model: LanguageModel) -> SiteGradients:
    return site_gradients(language_model, PROMPTS, log_odds, linearised=True)


def without_biases(model_type: str) -> Any:
    """A tiny model whose biases, if it has any, are 0."""
    model = built(model_type)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()
    return model


@pytest.mark.parametrize("model_type", COMPARED)
def test_gradients_are_those_of_another_implementation_in_float64(model_type: str) -> None:
    model = opened(built(model_type))
    found = relp(model)
    expected = relp_in_float64(model.model, model.structure, PROMPTS, log_odds)
    # Neurons of a shared expert have another unit there, in which the gate is no part of their value.
    for kind in ("attention",) if model_type == "qwen2_moe" else ("ffn", "attention"):
        layers = found.gradients[kind]
        assert len(layers) == len(expected[kind]) == model.structure.n_layers
        for layer, (gradients, wide) in enumerate(zip(layers, expected[kind], strict=True)):
            # Experts that a token is not routed to do not run, and have no gradient here.
            ran = found.activations[kind][layer] != 0
            assert (gradients - wide)[ran].abs().max() < 1e-5 * wide.abs().max()


@pytest.mark.parametrize(
    "family",
    chosen_on_push(FAMILIES, *differing("blocks", "projections", "experts", "backward pass")),
)
def test_values_are_the_models_own_and_all_is_as_before(family: Any) -> None:
    model = opened(family.build())
    found = relp(model)
    plain = site_gradients(model, PROMPTS, log_odds)
    assert torch.equal(found.metric, plain.metric)
    for site in ("ffn", "attention"):
        for ours, own in zip(found.activations[site], plain.activations[site], strict=True):
            assert torch.equal(ours, own)
        for ours, own in zip(found.gradients[site], plain.gradients[site], strict=True):
            assert torch.isfinite(ours).all()
            assert not torch.equal(ours, own)


@pytest.mark.parametrize("model_type", WITHOUT_BIASES)
def test_neurons_of_a_layer_and_what_bypasses_it_add_up_to_the_metric(model_type: str) -> None:
    model = opened(without_biases(model_type))
    prompt = PROMPTS[:1]
    found = _differentiate(
        model.model, model.structure, prompt, log_odds, ("ffn_input", "ffn_out"), linearised=True
    )
    parts = capture_components(model.model, model.structure, prompt[0], range(len(prompt[0])))
    for layer, block in enumerate(model.structure.blocks):
        neurons = found.values["ffn_input"][layer] * found.gradients["ffn_input"][layer]
        bypassing = parts.resid_pre[layer] + parts.attention_out[layer]
        slopes = found.gradients["ffn_out"][layer] / block.ffn_output.multiplier
        passed = bypassing * slopes.view_as(bypassing)
        size = float(neurons.abs().sum() + passed.abs().sum())
        assert float(neurons.sum() + passed.sum()) == pytest.approx(float(found.metric), abs=1e-5 * size)


class Path(nn.Module):
    """Two matrices with a function between them."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.into, self.out, self.between = nn.Linear(8, 16), nn.Linear(16, 8), between
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)

    def forward(self, states: Tensor) -> Tensor:
        return self.out(self.between(self.into(states)))


def slopes_of(path: Path, *, linearised: bool) -> Tensor:
    states = torch.linspace(-1, 1, 24).view(3, 8).requires_grad_()
    if not linearised:
        return torch.autograd.grad(path(states).square().sum(), states)[0]
    with linearised_blocks([path]):
        result = path(states)
    refuse_nonlinear(result)
    return torch.autograd.grad(result.square().sum(), states)[0]


def test_a_linear_path_has_the_plain_gradient() -> None:
    for between in (nn.Identity(), nn.ReLU(), nn.Dropout().eval()):
        found, expected = (slopes_of(Path(between), linearised=linearised) for linearised in (True, False))
        assert torch.allclose(found, expected, rtol=1e-6)
    found, expected = (slopes_of(Path(nn.SiLU()), linearised=linearised) for linearised in (True, False))
    assert not torch.allclose(found, expected, rtol=0.1)


def test_a_ratio_of_nothing_to_nothing_is_the_slope() -> None:
    given = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    for function, slope in ((silu, 0.5), (relu, 0.0)):
        value = proportional(function, given, function(given))
        assert torch.equal(value, function(given))
        (found,) = torch.autograd.grad(value.sum(), given)
        expected = (function(given) / given).detach()
        assert found.tolist() == pytest.approx([float(expected[0]), slope, float(expected[2])])


class Odd(nn.Module):
    """An activation of functions that are not known, in two modules."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.inner, self.function = nn.Identity(), function

    def forward(self, states: Tensor) -> Tensor:
        return self.function(self.inner(states))


@pytest.mark.parametrize("function", [lambda x: x * x.tanh(), lambda x: x * x.cumsum(-1).exp()])
def test_functions_that_are_not_known_are_refused(function: Any) -> None:
    model: Any = built("llama")
    model.model.layers[1].mlp.act_fn = Odd(function)
    language_model = opened(model)
    assert torch.isfinite(site_gradients(language_model, PROMPTS, log_odds).metric).all()
    with pytest.raises(ms.UnsupportedModelError, match=r"has a (Tanh|Exp)Backward0 that is not known"):
        relp(language_model)
    assert_nothing_is_left(model)


def test_a_norm_without_weights_is_no_activation() -> None:
    path = Path(nn.LayerNorm(16, elementwise_affine=False))
    states = torch.linspace(-1, 1, 24).view(3, 8).requires_grad_()
    entered = path.into(states)
    scale = (entered.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt().detach()
    result = path.out((entered - entered.mean(-1, keepdim=True)) * scale)
    (expected,) = torch.autograd.grad(result.square().sum(), states)
    assert torch.allclose(slopes_of(path, linearised=True), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "qwen2_moe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_left_after_an_interrupt(model_type: str, dtype: torch.dtype) -> None:
    model: Any = built(model_type)
    model.to(dtype)
    language_model = opened(model)
    before = [(weight.requires_grad, weight.dtype) for weight in model.parameters()]

    def interrupt(logits: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site_gradients(language_model, PROMPTS, interrupt, linearised=True)
    assert_nothing_is_left(model)
    assert before == [(weight.requires_grad, weight.dtype) for weight in model.parameters()]


def assert_nothing_is_left(model: nn.Module) -> None:
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not torch._C._len_torch_function_stack()
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "mixtral"])
def test_half_precision_weights_give_the_gradients_of_the_same_weights_in_float32(model_type: str) -> None:
    half = built(model_type).bfloat16()
    found = relp(opened(half))
    expected = relp(opened(built(model_type).bfloat16().float()))
    for ours, wide in zip(found.gradients["ffn"], expected.gradients["ffn"], strict=True):
        assert (ours - wide).abs().max() <= 1e-5 * wide.abs().max()
