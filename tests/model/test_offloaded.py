"""Weights that accelerate offloads give what weights in memory give, and stay where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import disk_offload
from transformers import AutoModelForCausalLM

import mnemoscope as ms
from mnemoscope.model.weights import read_parameter, read_weight
from support import built, open_tiny, word_tokenizer, words

PROMPT = words(5, 17, 80, 33, 5, 61, 9)
OTHER = words(7, 60, 2)
TARGET = 40


@pytest.fixture(params=["llama", "gpt2", "olmo2", "gemma2", "falcon", "mixtral", "qwen2_moe"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ms.Model, ms.Model]:
    """A model in memory and the same on disk."""
    offloaded: Any = disk_offload(built(request.param), str(tmp_path), execution_device=torch.device("cpu"))
    return open_tiny(built(request.param)), open_tiny(offloaded)


def test_an_offloaded_model_is_attributed_alike(pair: tuple[ms.Model, ms.Model]) -> None:
    results = [model.attribute(PROMPT, TARGET, top=20) for model in pair]
    for name, table in results[0].tables().items():
        assert results[1].tables()[name].equals(table), name
    model = pair[1]
    assert all(weight.device.type == "meta" for weight in model.language_model.model.parameters())
    part = ms.FFNNeuron(0, 3)
    drops = [each.single_ablations(OTHER, TARGET, [part])["drop"].iloc[0] for each in pair]
    assert drops[0] == pytest.approx(drops[1], abs=1e-6)
    with pytest.raises(ms.UnsupportedModelError, match="offloaded"):
        model.edit([part])


def test_a_folder_is_spread_by_accelerate(tmp_path: Path) -> None:
    built("llama").save_pretrained(tmp_path)
    word_tokenizer(97).save_pretrained(tmp_path)
    spread, plain = ms.load(tmp_path, device="auto"), ms.load(tmp_path)
    tables = [model.attribute(PROMPT, TARGET, top=5).ffn_neurons for model in (spread, plain)]
    assert tables[0].equals(tables[1])


def test_layers_on_disk_beside_layers_in_memory(tmp_path: Path) -> None:
    built("llama").save_pretrained(tmp_path)
    kept = ["embed_tokens", "layers.0", "layers.2", "norm", "rotary_emb"]
    places: Any = {"model.layers.1": "disk", "lm_head": "cpu"} | {f"model.{name}": "cpu" for name in kept}
    model = open_tiny(AutoModelForCausalLM.from_pretrained(tmp_path, device_map=places))
    weights = [
        block.ffn_output.module.get_parameter("weight") for block in model.language_model.structure.blocks
    ]
    assert [weight.device.type for weight in weights] == ["cpu", "meta", "cpu"]
    table = model.attribute(PROMPT, TARGET, top=5).ffn_neurons
    assert table.equals(open_tiny(built("llama")).attribute(PROMPT, TARGET, top=5).ffn_neurons)


def test_what_has_no_weight_says_so() -> None:
    assert read_parameter(torch.nn.ReLU(), "weight") is None
    with pytest.raises(TypeError, match="ReLU has no weight"):
        read_weight(torch.nn.ReLU())
    with pytest.raises(TypeError, match="nowhere"):
        read_weight(torch.nn.Linear(2, 3, device="meta"))
