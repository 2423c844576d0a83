"""How many tokens a model reads: as many as transformers runs, where the model is made for them."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import mnemoscope as ms
from mnemoscope.model.families.registry import FAMILIES
from mnemoscope.model.language_model import LanguageModel
from support import built, open_tiny, words

LONGER = words(*[5 + i % 80 for i in range(70)])  # all tiny models have a context of 64
SCALED: list[dict[str, Any]] = [
    {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 16},
]


def rescaled(parameters: dict[str, Any]) -> PreTrainedModel:
    config = copy.deepcopy(built("llama").config)
    config.rope_parameters = parameters
    torch.manual_seed(0)
    return type(built("llama"))(config).eval()


@pytest.mark.parametrize("parameters", SCALED, ids=lambda parameters: parameters["rope_type"])
def test_scaled_rotary_positions_read_on(parameters: dict[str, Any]) -> None:
    model = open_tiny(rescaled(parameters))
    found = model.predict(LONGER, top=97)
    with torch.no_grad():
        # A model of its own: dynamic scaling remembers the longest prompt.
        logits = rescaled(parameters)(input_ids=torch.tensor([found.token_ids])).logits[0, -1]
    expected = logits.double().log_softmax(-1)[found.table["id"].tolist()].tolist()
    assert len(found.token_ids) == 70
    assert found.table["log_probability"].tolist() == pytest.approx(expected, abs=1e-5)
    assert model.attribute(LONGER, 9, top=1, query=False).target.id == 9


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gptj", "mpt", "llama"])
def test_positions_in_a_table_or_unscaled_end(model_type: str) -> None:
    with pytest.raises(ms.PromptError, match="has 70 tokens but the model reads at most 64; shorten it by 6"):
        open_tiny(built(model_type)).predict(LONGER)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f"{f.model_type}-{f.variant.replace(' ', '_')}")
def test_whatever_is_let_through_transformers_runs(family: ms.Family) -> None:
    model = family.build()
    context = LanguageModel.context.fget(SimpleNamespace(model=model))  # type: ignore[misc]
    n_tokens = 70 if context is None else context
    with torch.no_grad():
        logits = model(input_ids=torch.full((1, n_tokens), 5)).logits
    assert logits.shape[1] == n_tokens
