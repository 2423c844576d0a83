"""An unknown architecture is analysed if its parts add up, and refused if they do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.model.activations import ActivationCache
from mnemoscope.model.structure import ModelStructure
from support import open_tiny, words
from unsupported_variants import UNSUPPORTED, UNUSUAL, ScaledBeyondProbe, toy_model

TARGET = 40


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_the_parts_do_not_explain_is_refused(name: str) -> None:
    parts, reason = UNSUPPORTED[name]
    with pytest.raises(ms.UnsupportedModelError, match=reason):
        open_tiny(toy_model(*parts))


def everything_added(activations: ActivationCache, structure: ModelStructure) -> Tensor:
    total = activations.resid_pre[0].clone()
    for layer, block in enumerate(structure.blocks):
        attention = activations.weighted_values(layer).sum(-1).flatten() @ block.attention_output.columns()
        ffn = activations.coefficients[layer] @ block.ffn_output.columns()
        total += activations.attention_scale[layer] * attention + activations.attention_constant[layer]
        total += activations.ffn_scale[layer] * ffn + activations.ffn_constant[layer]
    return total


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_only_looks_wrong_adds_up_on_prompts_of_every_length(name: str) -> None:
    opened = open_tiny(toy_model(UNUSUAL[name])).language_model
    generator = torch.Generator().manual_seed(5)
    for n_tokens in (1, 2, 5, 17, 40):
        prompt = torch.randint(97, (1, n_tokens), generator=generator)
        (activations,) = opened.capture(prompt.tolist())
        total = everything_added(activations, opened.structure)
        assert torch.allclose(total, activations.final_state, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            own = opened.model(prompt).logits[0, -1].log_softmax(-1)
        assert torch.allclose(opened.structure.readout.log_probabilities(total[None])[0], own, atol=1e-4)


def test_what_no_probe_shows_is_refused_where_it_happens() -> None:
    model = open_tiny(toy_model(ScaledBeyondProbe))
    model.attribute(words(*range(5, 18)), TARGET)
    with pytest.raises(ms.UnsupportedModelError, match=r"on this prompt of 14 tokens.*residual stream"):
        model.attribute(words(*range(5, 19)), TARGET)
