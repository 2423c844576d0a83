"""The sizes of a model and the memory of an attribution are told from the config alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mnemoscope as ms
from mnemoscope.model.activations import capture
from mnemoscope.model.estimate import estimate_from_sizes, sizes_of
from mnemoscope.model.families.registry import FAMILIES, Family, structure_of
from support import built, family_id, open_tiny, word_tokenizer, words

BUDGET = 10 * 2**20


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral", "qwen2_moe"])
def test_counts_are_those_of_the_model(name: str) -> None:
    transformers_model = built(name)
    sizes = sizes_of(transformers_model.config)
    model = open_tiny(transformers_model)
    assert sizes.n_parameters == transformers_model.num_parameters()
    assert (sizes.n_layers, sizes.d_model) == (model.n_layers, model.d_model)
    assert sizes.n_vocabulary == model.n_vocabulary


@pytest.mark.parametrize("family", FAMILIES, ids=family_id)
def test_columns_are_those_that_discovery_finds(family: Family) -> None:
    if not family.is_in_transformers:
        pytest.skip("not in this transformers")
    model = family.build()
    structure = structure_of(model)
    n_neurons = structure.d_ff
    if structure.mixtures:  # those of the experts that a token is routed to
        (activations,) = capture(model, structure, [[5, 17, 80, 33]])
        n_neurons = int((activations.coefficients != 0).sum(-1).max())
    assert sizes_of(model.config).n_columns == n_neurons + structure.n_heads * structure.d_head


def test_a_token_meets_only_some_experts() -> None:
    sizes = sizes_of(built("mixtral").config)
    experts = sum(p.numel() for p in built("mixtral").parameters() if p.ndim == 3)
    blocks = sum(p.numel() for p in built("mixtral").get_submodule("model.layers").parameters())
    assert sizes.n_active == blocks - experts + experts * 2 // 6


def test_more_takes_more() -> None:
    sizes = sizes_of(built("llama").config)
    few, many = (estimate_from_sizes(sizes, n, dtype=torch.float32, memory_budget=BUDGET) for n in (5, 500))
    half = estimate_from_sizes(sizes, 5, dtype=torch.bfloat16, memory_budget=BUDGET)
    assert many.working_bytes > few.working_bytes > BUDGET
    assert half.weight_bytes == few.weight_bytes // 2 == 2 * sizes.n_parameters


def test_a_folder_is_estimated_without_its_weights(tmp_path: Path) -> None:
    model: Any = built("llama")
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    word_tokenizer(97).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    found = ms.estimate(tmp_path, words(5, 17, 80))
    assert found.dtype == "bfloat16"
    assert found.weight_bytes == 2 * model.num_parameters()
    assert found.n_tokens == 3
    assert ms.estimate(tmp_path, words(5, 17, 80), dtype="float32").weight_bytes == 2 * found.weight_bytes
    with pytest.raises(ms.PromptError, match="empty"):
        ms.estimate(tmp_path, "")
    with pytest.raises(ms.UnknownModelError):
        ms.estimate(tmp_path / "nowhere", "w1")
