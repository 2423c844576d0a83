"""Packed weights: what torchao and bitsandbytes hold in 8 or 4 bits, read as the numbers that they stand for.

Run with `make test-packed`, which brings both packages: where torchao is installed, transformers imports it
in every process and it writes to stderr, so that it is kept out of the other tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

import mnemoscope as ms
from mnemoscope.model.language_model import weights_digest
from mnemoscope.model.weights import read_weight
from support import built, open_tiny, word_tokenizer, words

torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed; run make test-packed")
pytest.importorskip("bitsandbytes")

PROMPT = words(5, 17, 80, 33, 5, 61, 9)
TARGET = 40
INT4: Any = getattr(torch, "int4")  # noqa: B009 - not in its stubs
MANNERS = {
    "torchao int8": lambda: TorchAoConfig(torchao.Int8WeightOnlyConfig()),
    "torchao int4": lambda: TorchAoConfig(torchao.IntxWeightOnlyConfig(weight_dtype=INT4)),
    "bitsandbytes 4 bits": lambda: BitsAndBytesConfig(load_in_4bit=True),
}


def packed(folder: Path, config: Any, factor: float = 1.0) -> Any:
    model: Any = built("llama")
    model.model.layers[0].mlp.down_proj.weight.data[:, 3] *= factor
    model.save_pretrained(folder)
    word_tokenizer(97).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu")


@pytest.fixture(params=list(MANNERS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return packed(tmp_path, MANNERS[request.param]())


def unpacked(model: Any) -> Any:
    """A plain model with the numbers that packed weights stand for."""
    plain: Any = built("llama")
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear):
            module.weight.data = read_weight(model.get_submodule(name)).float().clone()
    return plain


def test_packed_weights_are_attributed_as_the_numbers_they_stand_for(model: Any) -> None:
    of_packed, of_plain = open_tiny(model), open_tiny(unpacked(model))
    assert of_packed.validation.worst.error < 1e-5
    packed_result, plain_result = (m.attribute(PROMPT, TARGET, top=30) for m in (of_packed, of_plain))
    assert packed_result.query_neurons is not None
    ours, theirs = packed_result.ffn_neurons, plain_result.ffn_neurons
    assert ours[["layer", "neuron"]].equals(theirs[["layer", "neuron"]])
    assert ours["direct"].to_numpy() == pytest.approx(theirs["direct"].to_numpy(), abs=1e-4)
    own = open_tiny(built("llama")).attribute(PROMPT, TARGET, top=30).ffn_neurons
    assert abs(own["direct"] - ours["direct"]).max() > 1e-3, "packing rounds, so the scores must differ"


@pytest.mark.parametrize("manner", MANNERS)
def test_the_digest_is_of_the_packed_numbers(manner: str, tmp_path: Path) -> None:
    one, same, other = (
        weights_digest(packed(tmp_path / str(number), MANNERS[manner](), factor))
        for number, factor in enumerate((1.0, 1.0, 1.5))
    )
    assert one == same != other


def test_packed_weights_are_ablated_but_not_edited(model: Any) -> None:
    opened = open_tiny(model)
    before = opened.predict(PROMPT).table["log_probability"].tolist()
    with opened.ablate([ms.FFNNeuron(0, 3)]):
        assert opened.predict(PROMPT).table["log_probability"].tolist() != before
    with pytest.raises(ms.UnsupportedModelError, match="packed"):
        opened.edit([ms.FFNNeuron(0, 3)])


def test_a_folder_of_packed_weights_opens(tmp_path: Path) -> None:
    model = packed(tmp_path / "plain", MANNERS["torchao int8"]())
    model.save_pretrained(tmp_path / "packed")
    word_tokenizer(97).save_pretrained(tmp_path / "packed")
    opened = ms.load(tmp_path / "packed")
    table = opened.attribute(PROMPT, TARGET, top=5).ffn_neurons
    assert table.equals(open_tiny(model).attribute(PROMPT, TARGET, top=5).ffn_neurons)


def test_rounded_activations_are_refused(tmp_path: Path) -> None:
    model = packed(tmp_path, BitsAndBytesConfig(load_in_8bit=True))
    with pytest.raises(ms.UnsupportedModelError, match="rounds what enters it by all tokens"):
        open_tiny(model)
    model = packed(tmp_path, TorchAoConfig(torchao.Int8DynamicActivationInt8WeightConfig()))
    with pytest.raises(ms.UnsupportedModelError, match="do not add up"):
        open_tiny(model)


def test_layers_are_not_repacked_for_the_processor(tmp_path: Path) -> None:
    """Whatever the processor, passes leave 4-bit weights as they were; those repacked before are refused."""
    model = packed(tmp_path, MANNERS["bitsandbytes 4 bits"]())
    layer = model.model.layers[0].mlp.down_proj
    before = layer.weight.data.clone()
    opened = open_tiny(model)
    opened.predict(PROMPT)
    assert layer.weight.data.equal(before)
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ms.UnsupportedModelError, match=r"repacked by bitsandbytes .* load the model anew"):
        open_tiny(model)
