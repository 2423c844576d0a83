"""Loaded models as callers give them: opened where that is right, else refused in one sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForSequenceClassification, LlamaModel, PreTrainedModel, PreTrainedTokenizerFast

import mnemoscope as ms
from support import built, word_tokenizer, words

PROMPT = words(5, 17, 80, 33)


def llama() -> PreTrainedModel:
    return built("llama")


def log_probability(model: Any, token: int) -> float:
    """The model's own, from transformers alone, in float64."""
    ids = word_tokenizer()(PROMPT).input_ids
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[token])


def ours(source: Any, token: int = 40) -> float:
    return ms.load(source).attribute(PROMPT, token, effects=False, query=False).targets.value


WRONG: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "swapped": (lambda m, t: (t, m), r"tokenizer was given before the model; give \(model, tokenizer\)"),
    "model alone": (lambda m, t: m, "without its tokenizer; give both"),
    "tokenizer alone": (lambda m, t: t, "no model opens from an object of type"),
    "three": (lambda m, t: (m, t, 1), "3 objects were given, not two"),
    "one": (lambda m, t: (m,), "1 objects were given, not two"),
    "None": (lambda m, t: None, "an object of type NoneType; give 'demo', a hub id, a folder"),
    "number": (lambda m, t: 3, "an object of type int; give"),
    "bytes": (lambda m, t: b"demo", "an object of type bytes; give"),
    "dict": (lambda m, t: {"model": m, "tokenizer": t}, "an object of type dict; give"),
    "no name": (lambda m, t: "", "name is empty; give 'demo'"),
    "name and tokenizer": (lambda m, t: ("demo", t), "is a name, 'demo'; give the name alone"),
    "class": (lambda m, t: (type(m), t), "LlamaForCausalLM is no loaded model"),
    "config": (lambda m, t: (m.config, t), "LlamaConfig is no loaded model"),
    "no transformers model": (lambda m, t: (nn.Linear(3, 3), t), "Linear is no model of transformers"),
    "base model": (
        lambda m, t: (LlamaModel(m.config), t),
        "LlamaModel has no head that predicts tokens; open the checkpoint with AutoModelForCausalLM",
    ),
    "classifier": (lambda m, t: (LlamaForSequenceClassification(m.config), t), "no head that predicts"),
    "several devices": (
        lambda m, t: (nn.DataParallel(m), t),
        r"wrapped in DataParallel; give \(model.module, tokenizer\)",
    ),
    "bare tokenizer": (
        lambda m, t: (m, t.backend_tokenizer),
        r"is a tokenizers.Tokenizer, not one .*PreTrainedTokenizerFast\(tokenizer_object=tokenizer\)",
    ),
    "name of a tokenizer": (lambda m, t: (m, "demo"), "is a str, not one of transformers; give the one"),
    "no tokenizer": (lambda m, t: (m, None), "is a NoneType, not one of transformers"),
    "no numbers": (lambda m, t: (m.to("meta"), t), "lie on the meta device, so hold no numbers"),
    "compiled in place": (
        lambda m, t: (m.compile() or m, t),
        r"the model \(LlamaForCausalLM\) is compiled in place",
    ),
    "compiled layer": (
        lambda m, t: (m.model.layers[1].compile() or m, t),
        r"model.layers.1 \(LlamaDecoderLayer\) is compiled in place",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_wrong_thing_is_refused_in_one_sentence(what: str) -> None:
    make, message = WRONG[what]
    with pytest.raises(ms.MnemoscopeError, match=message) as caught:
        ms.load(make(llama(), word_tokenizer()))
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


def test_options_of_files_are_refused_for_a_loaded_model() -> None:
    for option in ({"dtype": "bfloat16"}, {"device": "cpu"}, {"revision": "main"}):
        with pytest.raises(ms.OptionError, match="a loaded model is taken as it is"):
            ms.load((llama(), word_tokenizer()), **option)


def test_remedies_work() -> None:
    model, tokenizer = llama(), word_tokenizer()
    expected = pytest.approx(log_probability(model, 40), abs=1e-4)
    assert ours((nn.DataParallel(model).module, tokenizer)) == expected
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    assert ours((model, wrapped)) == expected
    assert ours([model, tokenizer]) == expected


def test_a_compiled_model_is_opened_as_the_model_that_it_compiles() -> None:
    model = llama()
    opened = ms.load((torch.compile(model), word_tokenizer()))
    assert opened.language_model.model is model
    assert opened.predict(PROMPT).table["log_probability"].iloc[0] == pytest.approx(
        log_probability(model, opened.predict(PROMPT).table["id"].iloc[0]), abs=1e-4
    )


def test_a_layer_compiled_and_put_back_is_refused() -> None:
    model = llama()
    model.model.layers[1] = torch.compile(model.model.layers[1])
    with pytest.raises(ms.UnsupportedModelError, match=r"model.layers.1 .*compiled in place"):
        ms.load((model, word_tokenizer()))


@pytest.mark.parametrize("shared", ["", ".mlp", ".self_attn", ".mlp.down_proj"])
def test_layers_that_share_a_module_are_refused_and_copies_are_opened(shared: str) -> None:
    model = llama()
    layers = model.model.layers
    if shared:
        path, _, name = f"1{shared}".rpartition(".")
        setattr(layers.get_submodule(path), name, layers.get_submodule(f"0{shared}"))
    else:
        layers[1] = layers[0]
    with pytest.raises(ms.UnsupportedModelError, match=r"layers 0 and 1 of .* share one .*copy.deepcopy"):
        ms.load((model, word_tokenizer()))
    layers[1] = copy.deepcopy(layers[1])
    if shared in ("", ".self_attn"):
        with pytest.raises(ms.UnsupportedModelError, match=r"both have the layer_idx 0, .*; give every"):
            ms.load((model, word_tokenizer()))
        layers[1].self_attn.layer_idx = 1
    assert ours((model, word_tokenizer())) == pytest.approx(log_probability(model, 40), abs=1e-4)


def test_layers_that_share_a_weight_are_attributed_and_not_edited() -> None:
    model = llama()
    layers = model.model.layers
    layers[1].mlp.down_proj.weight = layers[0].mlp.down_proj.weight
    opened = ms.load((model, word_tokenizer()))
    assert ours((model, word_tokenizer())) == pytest.approx(log_probability(model, 40), abs=1e-4)
    with pytest.raises(ms.UnsupportedModelError, match="share a weight, so editing one would change"):
        opened.edit([ms.FFNNeuron(0, 3)])


def test_a_layer_that_attends_twice_is_refused_for_that() -> None:
    model = llama()
    layer = model.model.layers[1]
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: module.self_attn(args[0], **kwargs) and None, with_kwargs=True
    )
    with pytest.raises(ms.UnsupportedModelError, match="called an attention function 2 times in one pass"):
        ms.load((model, word_tokenizer()))


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_a_model_in_training_is_opened_as_it_predicts_and_stays_in_training(kind: str) -> None:
    model = built(kind)
    expected = log_probability(model, 40)
    model.train()
    frozen = next(model.children())
    frozen.training = False
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    opened = ms.load((model, word_tokenizer()))
    assert opened.attribute(PROMPT, 40).targets.value == pytest.approx(expected, abs=1e-4)
    assert [module for module in model.modules() if not module.training] == [frozen]
