"""Gradients of a metric by all neurons: batches, embeddings, and another way to the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.model.gradients import gradient_batches, input_embeddings, site_gradients, total_effects
from mnemoscope.model.readout import log_softmax
from support import built, open_tiny

PROMPTS = ((5, 17, 80, 33, 61), (7, 11, 3, 22, 40), (9, 14, 2, 71, 6))
TARGET = 40


def log_p(logits: Tensor) -> Tensor:
    return log_softmax(logits)[:, TARGET]


@pytest.mark.parametrize("linearised", [False, True])
def test_prompts_of_a_batch_are_independent(tiny: ms.Model, linearised: bool) -> None:
    model = tiny.language_model
    together = site_gradients(model, PROMPTS, log_p, linearised=linearised)
    alone = site_gradients(model, PROMPTS[1:2], log_p, linearised=linearised)
    assert float(together.metric[1]) == pytest.approx(float(alone.metric[0]), abs=1e-5)
    for kind in ("ffn", "attention"):
        for found, expected in zip(together.gradients[kind], alone.gradients[kind], strict=True):
            assert found.shape[:2] == (3, 5)
            assert (found[1] - expected[0]).abs().max() < 1e-4 * expected.abs().max()


def test_total_effects_are_activations_times_gradients(tiny: ms.Model) -> None:
    model = tiny.language_model
    found = site_gradients(model, PROMPTS[:1], log_p)
    effects = total_effects(model.model, model.structure, PROMPTS[0], lambda log_p: log_p[TARGET])
    for layer, (values, slopes) in enumerate(
        zip(found.activations["ffn"], found.gradients["ffn"], strict=True)
    ):
        width = values.shape[-1]
        assert torch.allclose(values[0] * slopes[0], effects.ffn[layer, :, :width], atol=1e-6)


def test_the_prompts_own_embeddings_change_nothing_and_others_do(tiny: ms.Model) -> None:
    model = tiny.language_model
    own = input_embeddings(model, PROMPTS)
    expected = site_gradients(model, PROMPTS, log_p)
    found = site_gradients(model, PROMPTS, log_p, embeddings=own)
    assert torch.equal(found.metric, expected.metric)
    assert torch.equal(found.gradients["ffn"][0], expected.gradients["ffn"][0])
    swapped = site_gradients(model, PROMPTS, log_p, embeddings=own.flip(0))
    # The stream of another prompt of this length gives that prompt's metric.
    assert torch.allclose(swapped.metric, expected.metric.flip(0), atol=1e-5)


def test_batches_have_one_length_and_fit() -> None:
    structure = open_tiny(built("llama")).language_model.structure
    prompts = [[1] * 5] * 4 + [[1] * 7] * 2
    assert list(gradient_batches(prompts, structure, 2**30)) == [range(4), range(4, 6)]
    assert list(gradient_batches(prompts, structure, 1)) == [range(i, i + 1) for i in range(6)]
