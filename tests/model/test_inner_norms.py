"""Blocks whose heads and FFN neurons pass a norm before the projection to the stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.bitnet import AutoBitLinear, BitLinear

import mnemoscope as ms
from mnemoscope.model.gradients import total_effects
from mnemoscope.model.objective import Objective
from mnemoscope.model.structure import Projection
from support import built, cache_of, open_tiny, word_tokenizer, words

IDS = (5, 17, 80, 33, 61)
PROMPT = words(*IDS)
TARGET = 40
N_HEADS, D_HEAD = 4, 8


def with_norms_put_in() -> PreTrainedModel:
    """A Llama whose projections begin with a norm of another class than BitNet's."""
    model = built("llama")
    for block in model.model.layers:
        for owner, name, width in ((block.self_attn, "o_proj", 32), (block.mlp, "down_proj", 48)):
            norm = nn.RMSNorm(width, eps=1e-5)
            norm.weight.data += 0.3 * torch.randn(width, generator=torch.Generator().manual_seed(width))
            setattr(owner, name, nn.Sequential(norm, getattr(owner, name)))
    return model


@pytest.fixture(scope="module", params=["bitnet", "put into llama"])
def model(request: pytest.FixtureRequest) -> ms.Model:
    return open_tiny(built("bitnet") if request.param == "bitnet" else with_norms_put_in())


def projections(model: ms.Model, kind: str) -> list[Projection]:
    blocks = model.language_model.structure.blocks
    return [block.attention_output if kind == "attention" else block.ffn_output for block in blocks]


def entered(model: ms.Model, kind: str) -> Tensor:
    """What the projections are given at the last position, seen by hooks of our own, `[n_layers, n]`."""
    seen: list[Tensor] = []
    handles = [
        projection.module.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, -1]))
        for projection in projections(model, kind)
    ]
    with torch.no_grad():
        model.language_model.model(torch.tensor([IDS]))
    for handle in handles:
        handle.remove()
    return torch.stack(seen)


def test_both_norms_are_found_in_every_layer(model: ms.Model) -> None:
    for kind in ("attention", "ffn"):
        for projection in projections(model, kind):
            assert projection.inner_norm is not None
            assert projection.norm is None
            assert projection.inner_norm.module is not projection.module
    assert model.validation.worst.error < 1e-5


def test_coefficients_are_what_enters_the_projections(model: ms.Model) -> None:
    (activations,) = model.language_model.capture([IDS])
    assert torch.allclose(activations.coefficients, entered(model, "ffn"), atol=1e-6)
    by_dim = torch.stack([activations.weighted_values(layer).sum(-1).flatten() for layer in range(3)])
    assert torch.allclose(by_dim, entered(model, "attention"), atol=1e-6)
    assert (activations.head_factors - 1).abs().min(dim=1).values.max() > 1e-3
    result = model.attribute(PROMPT, TARGET, top=5)
    for row in result.ffn_neurons.itertuples():
        assert row.coefficient == pytest.approx(
            float(activations.coefficients[row.layer, row.neuron]), abs=1e-6
        )


def test_heads_and_neurons_write_what_their_layer_adds(model: ms.Model) -> None:
    (activations,) = model.language_model.capture([IDS])
    structure = model.language_model.structure
    cache = cache_of(structure, activations)
    for layer in range(structure.n_layers):
        for grid, added in (
            (cache.heads_at_positions, activations.attention_out),
            (cache.ffn_neurons, activations.ffn_out),
        ):
            total = (grid.columns(layer, None) * grid.coefficients(layer)).sum(0)
            assert (total - added[layer]).abs().max() <= 1e-5 * added[layer].abs().max()


@contextmanager
def frozen(norm: nn.Module, factors: Tensor) -> Iterator[None]:
    """A norm that multiplies with what it multiplied with before, whatever it is given."""
    handle = norm.register_forward_hook(lambda module, args, output: args[0] * factors)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def value_scaled(model: ms.Model, layer: int, position: int, dim: int, factor: float) -> Iterator[None]:
    """One value of the first key/value head that counts more or less at one position."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, position, dim] *= factor
        return changed

    block = model.language_model.structure.blocks[layer].module
    handle = block.get_submodule("self_attn.v_proj").register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def log_p(model: ms.Model) -> float:
    with torch.no_grad():
        logits = model.language_model.model(torch.tensor([IDS])).logits[0, -1]
    return float(logits.double().log_softmax(-1)[TARGET])


def test_total_effects_by_source_are_slopes_with_the_norm_frozen(model: ms.Model) -> None:
    """Of scaling a value at the position that it comes from, for both query heads that read it."""
    opened, layer, step = model.language_model, 1, 2e-3
    found = total_effects(opened.model, opened.structure, IDS, Objective((TARGET,)).value)
    by_source = found.attention_by_source(layer)
    norm = projections(model, "attention")[layer].inner_norm
    assert norm is not None
    given: list[Tensor] = []
    handle = norm.module.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    log_p(model)
    handle.remove()
    largest = float(by_source.abs().max())
    for position in range(len(IDS)):
        for dim in (0, 5):
            ends = []
            with frozen(norm.module, norm.factors(given[0])):
                for factor in (1 + step, 1 - step):
                    with value_scaled(model, layer, position, dim, factor):
                        ends.append(log_p(model))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(by_source[:2, dim, position].sum()) == pytest.approx(slope, abs=5e-3 * largest)


def test_a_zeroed_neuron_leaves_the_norms_scale_alone(model: ms.Model) -> None:
    """Taken away behind the norm, as its column of the projection is: no other neuron grows for it."""
    before = entered(model, "ffn")[0]
    neuron = int(before.abs().argmax())
    with model.ablate([ms.FFNNeuron(0, neuron)]):
        after = entered(model, "ffn")[0]
    others = torch.arange(48) != neuron
    assert after[neuron] == 0
    assert torch.equal(after[others], before[others])


class Tripled(nn.RMSNorm):
    """A norm that does not do what its formula says."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def test_a_norm_of_heads_that_is_not_understood_is_refused() -> None:
    model = with_norms_put_in()
    model.model.layers[1].self_attn.o_proj[0] = Tripled(32)
    with pytest.raises(ms.UnsupportedModelError, match="attention neurons"):
        ms.load((model, word_tokenizer()))


@pytest.mark.parametrize("layer", [AutoBitLinear, BitLinear])
def test_quantised_bitnet_is_refused_in_words(layer: Any) -> None:
    model = built("bitnet")
    model.model.layers[1].mlp.down_proj = layer(48, 32, bias=False)
    with pytest.raises(ms.UnsupportedModelError, match="round what enters them to 8 bits"):
        ms.load((model, word_tokenizer()))
