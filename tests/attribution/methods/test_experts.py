"""Methods on layers of unequal width, beside float64 runs of the models' own code with changed weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.attribution.methods.base import MethodInput
from mnemoscope.attribution.methods.causal import Verified
from mnemoscope.attribution.methods.registry import method, methods
from support import built, open_tiny, words

IDS = (5, 17, 80, 33, 61)
PROMPT = words(*IDS)
TARGET = 40
UNEQUAL = ["qwen2_moe", "deepseek_v3", "glm4_moe", "ernie4_5_moe", "exaone_moe"]


class Reference:
    """The model in float64, and the matrices of each layer's neurons: routed experts, then the shared one."""

    def __init__(self, family: str) -> None:
        self.model: Any = copy.deepcopy(built(family)).double()
        self.model.set_attn_implementation("eager")
        self.model.config._experts_implementation = "eager"
        self.weights = [self._of(layer) for layer in self.model.model.layers]

    @staticmethod
    def _of(layer: Any) -> list[Tensor]:
        named = dict(layer.named_parameters())
        experts = [weight for name, weight in named.items() if name.endswith("experts.down_proj")]
        dense = [weight for name, weight in named.items() if name.endswith("down_proj.weight")]
        return [*experts, *dense]

    def log_p(self) -> Tensor:
        """Log probability of the target."""
        return self.model(input_ids=torch.tensor([IDS])).logits[0, -1].log_softmax(-1)[TARGET]

    def slopes(self) -> list[Tensor]:
        """`d log p / d s` where each neuron's column counts s times, at s = 1; by layer."""
        every = [weight for weights in self.weights for weight in weights]
        found = iter(torch.autograd.grad(self.log_p(), every, allow_unused=True))
        return [torch.cat([self._by_neuron(w, next(found)) for w in weights]) for weights in self.weights]

    @staticmethod
    def _by_neuron(weight: Tensor, gradient: Tensor | None) -> Tensor:
        product = torch.zeros_like(weight) if gradient is None else weight.detach() * gradient
        return product.sum(-2).flatten()

    def drop(self, layer: int, neuron: int) -> float:
        """How far log p falls without a neuron's column."""
        before = float(self.log_p().detach())
        for weight in self.weights[layer]:
            n = weight.shape[-1] * (len(weight) if weight.ndim == 3 else 1)
            if neuron < n:
                place = divmod(neuron, weight.shape[-1]) if weight.ndim == 3 else (slice(None), neuron)
                column = weight[place[0], :, place[1]] if weight.ndim == 3 else weight[place]
                kept = column.detach().clone()
                with torch.no_grad():
                    column.zero_()
                    after = float(self.log_p())
                    column.copy_(kept)
                return before - after
            neuron -= n
        raise IndexError


# On push experts alone, and with latent attention, groups and shared ones.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in ("qwen2_moe", "deepseek_v3") else pytest.mark.nightly)
        for name in UNEQUAL
    ],
)
def pair(request: pytest.FixtureRequest) -> tuple[ms.Model, Reference]:
    return open_tiny(built(request.param)), Reference(request.param)


def all_of(method_input: MethodInput, name: str) -> list[Tensor]:
    """A method's scores by layer, of the neurons that there are."""
    existing, structure = method_input.grid.existing, method_input.structure
    scores = method(name).scores(method_input, existing)
    assert scores is not None
    rows = (
        torch.zeros(method_input.grid.size)
        .scatter(0, existing, scores)
        .view(structure.n_layers, structure.d_ff)
    )
    return [row[: structure.n_neurons(layer)].double() for layer, row in enumerate(rows)]


def test_layers_differ_in_width(pair: tuple[ms.Model, Reference]) -> None:
    model, reference = pair
    widths = [sum(w.numel() // w.shape[-2] for w in weights) for weights in reference.weights]
    structure = model.language_model.structure
    assert widths == [structure.n_neurons(layer) for layer in range(structure.n_layers)]
    assert len(set(widths)) > 1


def test_every_method_names_neurons_that_there_are(pair: tuple[ms.Model, Reference]) -> None:
    model, _ = pair
    for name, each in methods().items():
        method_input = model.method_input(PROMPT, TARGET)
        chosen = type(each)(budget=8) if isinstance(each, Verified) else each
        index, scores = chosen.top(method_input, 4)
        assert len(index) == 4, name
        assert scores.isfinite().all(), name
        assert torch.isin(index, method_input.grid.existing).all(), name


def test_single_ablation_is_the_true_drop(pair: tuple[ms.Model, Reference]) -> None:
    model, reference = pair
    method_input = model.method_input(PROMPT, TARGET)
    found = all_of(method_input, "single-ablation")
    for layer, drops in enumerate(found):
        order = drops.abs().argsort(descending=True)
        for neuron in [*order[:3].tolist(), len(drops) - 1]:
            assert float(drops[neuron]) == pytest.approx(reference.drop(layer, neuron), abs=2e-5)


def test_verified_takes_the_true_drop(pair: tuple[ms.Model, Reference]) -> None:
    model, reference = pair
    method_input = model.method_input(PROMPT, TARGET)
    index, gains = Verified(budget=20, greedily=False).top(method_input, 5)
    layer, neuron, _ = method_input.grid.locate(index)
    expected = [reference.drop(*place) for place in zip(layer.tolist(), neuron.tolist(), strict=True)]
    assert gains.tolist() == pytest.approx(expected, abs=2e-5)


def test_gradients_are_those_of_scaled_columns(pair: tuple[ms.Model, Reference]) -> None:
    model, reference = pair
    method_input = model.method_input(PROMPT, TARGET)
    for found, expected in zip(all_of(method_input, "activation-gradient"), reference.slopes(), strict=True):
        assert (found - expected).abs().max() < 2e-5
    integrated = all_of(method_input, "integrated-gradients")
    for layer, found in enumerate(integrated):
        whole = [weight.detach().clone() for weight in reference.weights[layer]]
        total = torch.zeros_like(found)
        for step in range(1, 21):
            with torch.no_grad():
                for weight, kept in zip(reference.weights[layer], whole, strict=True):
                    weight.copy_(kept * step / 20)
            total += reference.slopes()[layer] * 20 / step
        with torch.no_grad():
            for weight, kept in zip(reference.weights[layer], whole, strict=True):
                weight.copy_(kept)
        assert (found - total / 20).abs().max() < 2e-5


def test_integrated_gradients_pass_experts_behind_a_post_norm() -> None:
    model = open_tiny(built("flex_olmo"))
    method_input = model.method_input(PROMPT, TARGET)
    found = all_of(method_input, "integrated-gradients")
    with model.ablate([ms.Layer(1, "ffn")]):
        without = model.predict(PROMPT, top=model.n_vocabulary).table.set_index("id")["log_probability"][
            TARGET
        ]
    own = model.predict(PROMPT, top=model.n_vocabulary).table.set_index("id")["log_probability"][TARGET]
    assert float(found[1].sum()) == pytest.approx(own - without, abs=0.02)
