"""PEFT adapters: merged when opened from files, read where they lie when given unmerged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import mnemoscope as ms
from circuit_tasks import told_apart
from mnemoscope.model.experts import matrix_of
from mnemoscope.model.families.registry import with_random_weights
from support import built, word_tokenizer, words

PROMPT = words(5, 17, 80, 33)
TARGETS = {
    "llama": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],  # Conv1D, stored transposed
}
LISTS = ("ffn_neurons", "attention_neurons", "heads", "layers")

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft's, about models it guesses things of


def saved_base(kind: str, folder: Path) -> Path:
    model = built(kind)
    model.save_pretrained(folder)
    word_tokenizer(model.get_input_embeddings().weight.shape[0]).save_pretrained(folder)
    return folder


def adapted(base: Path, config: peft.PeftConfig) -> Any:
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(1)
    for name, weights in model.named_parameters():
        if "lora" in name:  # B is zeros at first, and the adapter does nothing
            weights.data.normal_(std=0.3, generator=generator)
    return model


def lora(kind: str, **options: Any) -> peft.LoraConfig:
    return peft.LoraConfig(
        r=4, target_modules=TARGETS[kind], fan_in_fan_out=kind == "gpt2", task_type="CAUSAL_LM", **options
    )


def saved_llama(folder: Path, *, tied: bool) -> Path:
    config = built("llama").config
    config.num_hidden_layers, config.tie_word_embeddings = 2, tied
    model = with_random_weights(AutoModelForCausalLM.from_config(config))
    model.save_pretrained(folder)
    word_tokenizer(model.get_input_embeddings().weight.shape[0]).save_pretrained(folder)
    return folder


def trained(base: Any, config: peft.PeftConfig) -> Any:
    """A base with an adapter all of whose weights were changed."""
    model = peft.get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(1)
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data.add_(0.2 * torch.randn(weights.shape, generator=generator))
    return model


def log_probabilities(model: Any, ids: list[int]) -> torch.Tensor:
    """A transformers or PEFT model's own after token ids, in float64."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


def read_out(model: ms.Model, ids: list[int]) -> torch.Tensor:
    """Ours after the same."""
    (activations,) = model.language_model.capture([ids])
    return model.language_model.structure.readout.log_probabilities(activations.final_state[None])[0].double()


def same(found: ms.Attribution, expected: ms.Attribution) -> bool:
    return all(
        getattr(found, name)["direct"].to_numpy()
        == pytest.approx(getattr(expected, name)["direct"].to_numpy(), abs=1e-5)
        for name in LISTS
    )


@pytest.fixture(params=TARGETS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"use_rslora": True, "lora_alpha": 3}, marks=pytest.mark.nightly)]
)
def test_an_adapter_means_the_same_merged_and_not(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    base = saved_base(kind, tmp_path / "base")
    model = adapted(base, lora(kind, **options))
    model.save_pretrained(tmp_path / "adapter")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainable = [name for name, weights in model.named_parameters() if weights.requires_grad]

    tokenizer = ms.load(base).language_model.tokenizer
    unmerged = ms.load((model, tokenizer))
    found = unmerged.attribute(PROMPT, 40, top=10)
    merged = ms.load(tmp_path / "adapter")
    expected = merged.attribute(PROMPT, 40, top=10)
    assert same(found, expected)
    assert not same(found, ms.load(base).attribute(PROMPT, 40, top=10))
    assert found.ffn_neurons["total"].to_numpy() == pytest.approx(expected.ffn_neurons["total"], abs=1e-4)
    activating = [result.query_neurons.of_ffn.ffn_neurons["score"] for result in (found, expected)]
    assert activating[0].to_numpy() == pytest.approx(activating[1].to_numpy(), abs=1e-4)

    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [name for name, weights in model.named_parameters() if weights.requires_grad] == trainable
    assert all(weights.grad is None for weights in model.parameters())
    assert model.training

    assert unmerged.name == f"default on {base}"
    assert merged.name == f"{tmp_path / 'adapter'} on {base}"
    adapter_digest, base_digest = merged.revision.split(" on ")
    assert base_digest == ms.load(base).revision
    assert adapter_digest != base_digest
    assert not merged.language_model.model.training


def test_adapters_with_biases_several_at_once_and_switched_off(tmp_path: Path) -> None:
    base = saved_base("gpt2", tmp_path)
    model = adapted(base, lora("gpt2", lora_bias=True))
    model.add_adapter("second", lora("gpt2"))
    model.base_model.set_adapter(["default", "second"])
    tokenizer = ms.load(base).language_model.tokenizer
    both = ms.load((model, tokenizer))
    assert both.name == f"default, second on {base}"
    one = ms.load((adapted(base, lora("gpt2", lora_bias=True)).merge_and_unload(), tokenizer))
    # The second has B of zeros yet.
    assert same(both.attribute(PROMPT, 40, top=10), one.attribute(PROMPT, 40, top=10))
    plain = ms.load(base).attribute(PROMPT, 40, top=10)
    assert not same(both.attribute(PROMPT, 40, top=10), plain)
    with model.disable_adapter():
        assert same(ms.load((model, tokenizer)).attribute(PROMPT, 40, top=10), plain)


def test_an_edit_of_an_unmerged_model_is_saved_merged(kind: str, tmp_path: Path) -> None:
    base = saved_base(kind, tmp_path / "base")
    model = adapted(base, lora(kind))
    opened = ms.load((model, ms.load(base).language_model.tokenizer))
    parts = [ms.FFNNeuron(1, 3), ms.Head(2, 1), ms.Layer(0, "ffn")]
    with opened.ablate(parts):
        expected = opened.predict(PROMPT).table["log_probability"].to_numpy()
    opened.edit(parts, save_to=tmp_path / "edited")
    found = ms.load(tmp_path / "edited").predict(PROMPT).table["log_probability"].to_numpy()
    assert found == pytest.approx(expected, abs=1e-4)
    assert not list((tmp_path / "edited").glob("adapter*"))
    assert any("lora_A" in name for name, _ in model.named_parameters())


def test_relp_and_circuits_are_the_same_merged_and_not(kind: str, tmp_path: Path) -> None:
    base = saved_base(kind, tmp_path / "base")
    model = adapted(base, lora(kind, lora_dropout=0.5))
    model.save_pretrained(tmp_path / "adapter")
    opened = ms.load((model, ms.load(base).language_model.tokenizer)), ms.load(tmp_path / "adapter")
    ranked = [
        each.rank_neurons(PROMPT, 40, method="relp", top=10).neurons for each in (*opened, ms.load(base))
    ]
    pd.testing.assert_frame_equal(ranked[0], ranked[1], rtol=1e-3, atol=1e-5)
    assert not ranked[0].equals(ranked[2])
    pairs = told_apart(opened[1])
    for options in (
        {"size": 12, "kinds": ("ffn", "head"), "ablation": "patch"},
        {"method": "greedy", "size": 6},
    ):
        found, expected = (each.circuit(pairs, positions=True, **options) for each in opened)
        for name, table in expected.tables().items():
            pd.testing.assert_frame_equal(found.tables()[name], table, rtol=1e-3, atol=1e-4, obj=name)
    with opened[0].ablate(found, complement=True), opened[1].ablate(expected, complement=True):
        one, other = (each.predict(pairs[0].clean).table for each in opened)
    pd.testing.assert_frame_equal(one, other, rtol=1e-3, atol=1e-4)


IA3 = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])


@pytest.mark.parametrize("config", [lora("llama", use_dora=True), IA3], ids=["DoRA", "IA3"])
def test_what_is_more_than_a_low_rank_matrix_is_merged_or_refused(
    config: peft.PeftConfig, tmp_path: Path
) -> None:
    base = saved_base("llama", tmp_path / "base")
    model = adapted(base, config)
    for name, weights in model.named_parameters():
        if "ia3" in name:  # ones at first
            weights.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(len(name)))
    model.eval().save_pretrained(tmp_path / "adapter")
    with pytest.raises(ms.UnsupportedModelError, match=r"low-rank matrix; give the merged model"):
        ms.load((model, ms.load(base).language_model.tokenizer))
    opened = ms.load(tmp_path / "adapter")
    ids = torch.tensor([opened.predict(PROMPT).token_ids])
    with torch.no_grad():
        expected, plain = model(ids).logits, ms.load(base).language_model.model(ids).logits
        found = opened.language_model.model(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(target_modules=["lm_head"]),
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["of the head", "prompt tuning"],
)
def test_other_adapters_are_refused_unmerged(config: peft.PeftConfig) -> None:
    model = built("llama")
    tokenizer = word_tokenizer(model.get_input_embeddings().weight.shape[0])
    with pytest.raises(ms.UnsupportedModelError, match=r"merge") as caught:
        ms.load((peft.get_peft_model(model, config), tokenizer))
    assert "\n" not in str(caught.value)


def test_an_adapter_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    base = saved_base("llama", tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapted(base, lora("llama")).save_pretrained(adapter)
    config = adapter / "adapter_config.json"
    said = json.loads(config.read_text())

    config.write_text(json.dumps({**said, "base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ms.UnknownModelError, match="write where it is as base_model_name_or_path into"):
        ms.load(adapter)
    for base_named, message in (
        (None, "does not say which model it is for"),
        (str(adapter), "is the adapter"),
        (str(saved_base("gpt2", tmp_path / "other")), "cannot be put on"),
    ):
        config.write_text(json.dumps({**said, "base_model_name_or_path": base_named}))
        with pytest.raises(ms.MnemoscopeError, match=message):
            ms.load(adapter)

    config.write_text(json.dumps({**said, "target_modules": ["down_proj", "k_proj"]}))
    with pytest.raises(ms.ModelFileError, match="does not fit"):
        ms.load(adapter)
    config.write_text("{")
    with pytest.raises(ms.ModelFileError, match="is no config of an adapter"):
        ms.load(adapter)
    config.write_text(json.dumps(said))
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ms.ModelFileError, match="damaged"):
        ms.load(adapter)
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(ms.ModelFileError, match="only a pickle"):
        ms.load(adapter)


def test_adapters_that_only_talk_to_the_model_are_refused(tmp_path: Path) -> None:
    base = saved_base("llama", tmp_path / "base")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapted(base, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ms.UnsupportedModelError, match="PROMPT_TUNING, which cannot be merged"):
        ms.load(tmp_path / "adapter")


def test_without_peft_an_adapter_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ms.UnsupportedModelError, match=r"pip install '\.\[peft\]'"):
        ms.load(tmp_path)


OF_ENDS: dict[str, Any] = {
    "LoRA of the head": lambda: peft.LoraConfig(r=4, target_modules=["q_proj", "lm_head"]),
    "LoRA of the embeddings": lambda: peft.LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"]),
    "LoRA of both": lambda: peft.LoraConfig(r=4, target_modules=["embed_tokens", "lm_head"]),
    "LoRA of both, tied": lambda: peft.LoraConfig(
        r=4, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True
    ),
    "DoRA of the head": lambda: peft.LoraConfig(r=4, target_modules=["lm_head"], use_dora=True),
    "IA3 of the head": lambda: peft.IA3Config(
        target_modules=["k_proj", "lm_head"], feedforward_modules=["lm_head"]
    ),
    "LoHa of the head": lambda: peft.LoHaConfig(target_modules=["q_proj", "lm_head"]),
    "LoKr of the head": lambda: peft.LoKrConfig(target_modules=["q_proj", "lm_head"]),
    "OFT of the head": lambda: peft.OFTConfig(target_modules=["lm_head"], oft_block_size=8, r=0),
    "a whole head": lambda: peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "whole embeddings": lambda: peft.LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    ),
    "some tokens": lambda: peft.LoraConfig(
        r=4, target_modules=["q_proj"], trainable_token_indices=[5, 17, 33]
    ),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"]),
}
READ_UNMERGED = ("LoRA of the embeddings", "a whole head", "whole embeddings")


# An untied head is merged by the same code whatever the adapter is, so one of each kind of end is enough.
UNTIED_ON_PUSH = ("LoRA of both", "a whole head", "whole embeddings")
OF_BOTH_SORTS = [
    pytest.param(of, tied, marks=[] if tied or of in UNTIED_ON_PUSH else pytest.mark.nightly)
    for of in OF_ENDS
    for tied in (True, False)
]


@pytest.mark.parametrize(("of", "tied"), OF_BOTH_SORTS)
def test_a_merged_adapter_predicts_what_peft_predicts(of: str, tied: bool, tmp_path: Path) -> None:
    base = saved_llama(tmp_path / "base", tied=tied)
    trained(AutoModelForCausalLM.from_pretrained(base), OF_ENDS[of]()).save_pretrained(tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = [1, 5, 17, 80, 33]
    without = log_probabilities(plain, ids)
    own = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    expected = log_probabilities(own, ids)
    assert float((without - expected).abs().max()) > 0.1
    opened = ms.load(tmp_path / "adapter")
    assert torch.allclose(read_out(opened, ids), expected, rtol=0, atol=1e-4)
    # What is saved is the same model, tied or not.
    opened.edit([ms.FFNNeuron(0, 1)], factor=1.0, save_to=tmp_path / "edited")
    assert torch.allclose(read_out(ms.load(tmp_path / "edited"), ids), expected, rtol=0, atol=1e-4)
    if of in READ_UNMERGED:
        unmerged = ms.load((own, opened.language_model.tokenizer))
        assert torch.allclose(read_out(unmerged, ids), expected, rtol=0, atol=1e-4)
        edited = unmerged.edit([ms.FFNNeuron(0, 1)], factor=1.0)
        assert torch.allclose(read_out(edited, ids), expected, rtol=0, atol=1e-4)
        assert torch.equal(log_probabilities(own, ids), expected)
        return
    remedy = "open that folder" if tied and of != "norms" else "merge_and_unload"
    with pytest.raises(ms.UnsupportedModelError, match=remedy):
        ms.load((own, opened.language_model.tokenizer))


def test_a_merge_that_gives_other_logits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = saved_llama(tmp_path / "base", tied=True)
    model = trained(AutoModelForCausalLM.from_pretrained(base), OF_ENDS["LoRA of the embeddings"]())
    model.save_pretrained(tmp_path / "adapter")
    opened = ms.load((model, ms.load(base).language_model.tokenizer))
    monkeypatch.setattr("mnemoscope.model.peft._untie", lambda model: None)
    with pytest.raises(ms.UnsupportedModelError, match="other logits merged"):
        ms.load(tmp_path / "adapter")
    with pytest.raises(ms.UnsupportedModelError, match="other logits merged"):
        opened.edit([ms.FFNNeuron(0, 1)])


def test_an_adapter_that_peft_cannot_merge_says_so(tmp_path: Path) -> None:
    base = saved_llama(tmp_path / "base", tied=False)
    config = peft.LoraConfig(r=4, target_modules=["lm_head"], lora_bias=True)
    trained(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ms.UnsupportedModelError, match="cannot be merged into the weights of"):
        ms.load(tmp_path / "adapter")


RESIZED: dict[str, Any] = {
    "layers": lambda: peft.LoraConfig(r=4, target_modules=["q_proj"]),
    "LoRA of both": OF_ENDS["LoRA of both"],
    "both whole": lambda: peft.LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]
    ),
    "a whole head": OF_ENDS["a whole head"],
    "some tokens": lambda: peft.LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[5, 100]),
}


# On push every adapter on more tokens, tied, and one on fewer and one untied.
@pytest.mark.parametrize(
    ("of", "tied", "n_tokens"),
    [
        pytest.param(
            of,
            tied,
            n_tokens,
            marks=[] if (tied and n_tokens == 103) or of == "LoRA of both" else pytest.mark.nightly,
        )
        for of in RESIZED
        for tied in (True, False)
        for n_tokens in (103, 90)
        if of != "some tokens" or n_tokens == 103  # token 100 is not among 90
    ],
)
def test_an_adapter_trained_on_a_resized_vocabulary_is_opened_with_it(
    of: str, tied: bool, n_tokens: int, tmp_path: Path
) -> None:
    base = saved_llama(tmp_path / "base", tied=tied)
    resized = AutoModelForCausalLM.from_pretrained(base)
    resized.resize_token_embeddings(n_tokens, mean_resizing=False)
    model = trained(resized, RESIZED[of]())
    model.save_pretrained(tmp_path / "adapter")
    word_tokenizer(n_tokens).save_pretrained(tmp_path / "adapter")
    ids = [1, 5, 17, n_tokens - 3, 33]
    found = read_out(ms.load(tmp_path / "adapter"), ids)
    assert len(found) == n_tokens
    assert torch.allclose(found, log_probabilities(model, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        (OF_ENDS["LoRA of the head"], True),
        (OF_ENDS["LoRA of the embeddings"], False),
        (OF_ENDS["whole embeddings"], True),
        (RESIZED["some tokens"], True),
    ],
    ids=["head", "embeddings", "whole embeddings", "tokens"],
)
def test_an_adapter_without_the_rows_of_its_resized_base_is_refused(
    config: Any, tied: bool, tmp_path: Path
) -> None:
    base = saved_llama(tmp_path / "base", tied=tied)
    resized = AutoModelForCausalLM.from_pretrained(base)
    resized.resize_token_embeddings(103, mean_resizing=False)
    resized.save_pretrained(tmp_path / "resized")
    word_tokenizer(103).save_pretrained(tmp_path / "resized")
    model = trained(resized, config())
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(ms.ModelFileError, match=r"97 tokens were made 10[13], .* lack rows of"):
        ms.load(tmp_path / "adapter")
    # The remedy works.
    said = tmp_path / "adapter" / "adapter_config.json"
    named = {**json.loads(said.read_text()), "base_model_name_or_path": str(tmp_path / "resized")}
    said.write_text(json.dumps(named))
    ids = [1, 5, 17, 100, 33]
    found = read_out(ms.load(tmp_path / "adapter"), ids)
    assert torch.allclose(found, log_probabilities(model, ids), rtol=0, atol=1e-4)


def test_weights_with_unmerged_adapters_are_not_changed() -> None:
    """`edit` changes a merged copy; a change of the base alone would leave the adapter's part."""
    model = built("llama")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["down_proj"]))
    layer = next(module for module in adapted.modules() if hasattr(module, "lora_A"))
    matrix = matrix_of(layer)
    for change in (lambda: matrix.scale(0.0), lambda: matrix.scale_inputs(torch.tensor([0]), 0.0)):
        with pytest.raises(TypeError, match="merge the adapters before"):
            change()
