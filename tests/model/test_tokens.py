"""Prompts and targets as token ids: those of the tokenizer itself, with the predictions of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import mnemoscope as ms
from mnemoscope.intervention.side_effects import beginnings
from mnemoscope.model.encoding import encode_text, token_text
from mnemoscope.model.tokens import encode_continuation, encode_prompt
from support import built, word_tokenizer, words

SPECIAL = ["<s>", "</s>", "<turn>", "<unk>"]
BOS, EOS, TURN, UNKNOWN = range(4)
TEXT = "The capital of Japan is the city of"
CORPUS = [
    TEXT + " Tokyo. Answer: (A) or [B], user@Tokyo math.sqrt of 2+2=4 well-known path/to",
    'He said "Tokyo" to Tokyo (Tokyo) and Paris, St. Paul -> Tokyo; Tokyo=Tokyo',
] * 20


def trained(kind: str, template: str = "$A") -> PreTrainedTokenizerBase:
    """A BPE tokenizer: byte-level, whose tokens begin with spaces; or one with `▁` before each word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "byte-level":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    special = list(zip(SPECIAL, range(4), strict=True))
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def opened() -> ms.Model:
    """A tiny model whose tokenizer puts BOS in front and an end token behind."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return ms.load((LlamaForCausalLM(config).eval(), trained("byte-level", "<s> $A </s>")))


def with_tokenizer(model: ms.Model, tokenizer: PreTrainedTokenizerBase) -> ms.Model:
    return ms.Model(dataclasses.replace(model.language_model, tokenizer=tokenizer))


def own_ids(model: ms.Model, text: str) -> list[int]:
    """The tokens of a text alone."""
    return model.language_model.tokenizer(text, add_special_tokens=False).input_ids


def own_log_p(model: ms.Model, ids: Any) -> Tensor:
    """What transformers itself predicts after token ids."""
    with torch.no_grad():
        logits = model.language_model.model(input_ids=torch.tensor([list(ids)])).logits[0, -1]
    return logits.double().log_softmax(-1)


def test_what_the_tokenizer_appends_is_no_part_of_a_prompt(opened: ms.Model) -> None:
    ids = [BOS, *own_ids(opened, TEXT)]
    assert opened.language_model.tokenizer(TEXT).input_ids == [*ids, EOS]
    found = opened.predict(TEXT, top=600)
    assert list(found.token_ids) == ids
    expected = own_log_p(opened, ids)[found.table["id"].tolist()]
    assert np.allclose(found.table["log_probability"], expected, atol=1e-5)
    target = own_ids(opened, " Tokyo")
    assert len(target) == 1
    result = opened.attribute(TEXT, " Tokyo", top=1, query=False)
    assert result.target.id == target[0]
    assert result.target.log_probability == pytest.approx(float(own_log_p(opened, ids)[target[0]]), abs=1e-5)
    assert beginnings(opened.language_model, [TEXT]) == [tuple(ids)]


def test_only_the_token_that_is_put_in_front_counts_as_written(opened: ms.Model) -> None:
    own = own_ids(opened, TEXT)
    assert opened.prompt(f"<s>{TEXT}").ids == (BOS, *own)
    assert opened.prompt(f"<turn>{TEXT}").ids == (BOS, TURN, *own)
    assert opened.prompt(f"</s>{TEXT}").ids == (BOS, EOS, *own)
    assert opened.prompt(f"{TEXT}</s>").ids == (BOS, *own, EOS)
    assert opened.prompt("<s>").ids == (BOS,)
    assert opened.prompt("</s>").ids == (BOS, EOS)


def test_a_front_of_two_tokens_is_there_once() -> None:
    tokenizer = trained("byte-level", "<turn> <s> $A")
    own = tokenizer(TEXT, add_special_tokens=False).input_ids
    for text in (TEXT, f"<turn>{TEXT}", f"<turn><s>{TEXT}"):
        assert encode_text(tokenizer, text) == [TURN, BOS, *own]
    assert encode_text(tokenizer, f"<s>{TEXT}") == [TURN, BOS, BOS, *own]


def test_special_tokens_can_be_left_out(opened: ms.Model) -> None:
    prompt = opened.prompt(TEXT, add_special_tokens=False)
    assert list(prompt.ids) == own_ids(opened, TEXT)
    result = opened.attribute(prompt, " Tokyo", top=1, query=False)
    assert result.token_ids == prompt.ids
    expected = own_log_p(opened, prompt.ids)[result.target.id]
    assert result.target.log_probability == pytest.approx(float(expected), abs=1e-5)
    (target,) = own_ids(opened, " Tokyo")
    assert result.target.id == target
    assert opened.rank_neurons(prompt, " Tokyo", top=1).targets.value == pytest.approx(
        float(expected), abs=1e-5
    )
    assert opened.prompt(opened.prompt(TEXT), add_special_tokens=False) == prompt
    assert opened.generate(prompt, 2) == opened.generate(list(prompt.ids), 2)


CHAT = (
    "{% for m in messages %}<turn>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<turn>{% endif %}"
)


@pytest.mark.parametrize("front", ["", "{{ bos_token }}"], ids=["no BOS in the template", "BOS in it"])
def test_a_chat_is_the_ids_of_its_template(opened: ms.Model, front: str) -> None:
    tokenizer = trained("byte-level", "<s> $A </s>")
    tokenizer.chat_template = front + CHAT
    model = with_tokenizer(opened, tokenizer)
    said = [{"role": "user", "content": TEXT}]
    ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    assert (ids[0] == BOS) == bool(front)
    assert list(model.prompt(said).ids) == list(model.chat_prompt(TEXT).ids) == ids
    assert list(model.predict(said).token_ids) == ids
    begun = [*said, {"role": "assistant", "content": "Answer:"}]
    ids = tokenizer.apply_chat_template(begun, continue_final_message=True, return_dict=False)
    result = model.attribute(begun, " Tokyo", top=1, query=False)
    assert list(result.token_ids) == ids
    assert [result.target.id] == own_ids(opened, " Tokyo")


FORMS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "numpy integers": lambda ids: [np.int64(i) for i in ids],
    "0-d tensors": lambda ids: [torch.tensor(i) for i in ids],
    "tensor": torch.tensor,
    "row of a tensor": lambda ids: torch.tensor([ids]),
    "array": np.array,
    "row of an array": lambda ids: np.array([ids], dtype=np.int32),
    "column": pd.Series,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_token_ids_are_a_prompt(opened: ms.Model, form: Callable[[list[int]], Any]) -> None:
    ids = own_ids(opened, TEXT)
    result = opened.attribute(form(ids), " Tokyo", top=1, query=False)
    assert result.token_ids == tuple(ids)
    assert result.prompt == TEXT
    (target,) = own_ids(opened, " Tokyo")
    assert result.target.id == target
    expected = float(own_log_p(opened, ids)[target])
    assert result.target.log_probability == pytest.approx(expected, abs=1e-5)


def test_ids_that_are_not_the_tokens_of_their_text_are_read_as_given(opened: ms.Model) -> None:
    ids = [i for letter in "Japan" for i in own_ids(opened, letter)]
    assert ids != own_ids(opened, "Japan")
    result = opened.attribute(ids, " Tokyo", top=1, query=False)
    assert result.token_ids == tuple(ids)
    assert [result.target.id] == own_ids(opened, " Tokyo")


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (None, "NoneType"),
        (3, "type int"),
        (True, "type bool"),
        (b"Tokyo", "type bytes"),
        ([1.5, 2.0], "holds float"),
        ([True, False], "holds bool"),
        (["The", " capital"], "holds str"),
        ({"role": "user", "content": "a"}, "type dict"),
        (torch.ones(2, 3, dtype=torch.long), r"shape \[2, 3\]"),
        (torch.ones(3), "float32"),
        ([], "the prompt is empty"),
        (torch.ones(0, dtype=torch.long), "the prompt is empty"),
        ([5, -1], "token id -1"),
        ([5, 2**40], "which no model has"),
        ([5, 600], "token id 600 but the model has 600 embeddings"),
        ([5] * 65, "reads at most 64"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_sentence(opened: ms.Model, prompt: Any, told: str) -> None:
    for call in (opened.predict, opened.run, opened.generate, lambda p: opened.head_tokens(p, 0, 0)):
        with pytest.raises(ms.PromptError, match=told) as refused:
            call(prompt)
        assert "\n" not in str(refused.value)


def test_a_prompt_of_another_tokenizer_is_refused(opened: ms.Model) -> None:
    other = ms.load((built("llama"), word_tokenizer()))
    with pytest.raises(ms.PromptError, match="tokenizer of another model"):
        opened.predict(other.prompt(words(3, 4)))


@pytest.mark.parametrize(
    "target",
    [np.int64(9), np.uint8(9), torch.tensor(9), np.array(9), 9.0, np.float64(9)],
    ids=lambda target: f"{type(target).__module__}-{type(target).__name__}",
)
def test_numbers_of_every_library_are_targets(opened: ms.Model, target: Any) -> None:
    assert opened.attribute(TEXT, target, top=1, query=False).target.id == 9
    assert opened.attribute(TEXT, 8, against=target, top=1, query=False).targets.against[0].id == 9
    head = [ms.Head(0, 1)]
    assert opened.compare_ablation(TEXT, target, head, seeds=1).target[0] == (9,)
    by_number = opened.ablate_each(TEXT, 9, [head])
    assert opened.ablate_each(TEXT, target, [head]).equals(by_number)


@pytest.mark.parametrize("several", [torch.tensor([9, 8]), np.array([9, 8]), pd.Series([9, 8]), (9, 8)])
def test_several_of_them_are_targets(opened: ms.Model, several: Any) -> None:
    found = opened.attribute(TEXT, several, top=1, query=False).targets.answers
    assert [target.id for target in found] == [9, 8]
    many = opened.attribute_many([TEXT, TEXT], several, top=1, query=False)
    assert [result.target.id for result in many] == [9, 8]


@pytest.mark.parametrize(
    "target", [True, np.True_, torch.tensor(True), 2.5, float("nan"), b" Tokyo", {"id": 3}, [None], [[3]]]
)
def test_what_is_no_target_is_refused(opened: ms.Model, target: Any) -> None:
    with pytest.raises(ms.TargetError, match=r"give (one|a) token's text or id"):
        opened.attribute(TEXT, target)
    with pytest.raises(ms.TargetError, match=r"give (one|a) token's text or id"):
        opened.attribute(TEXT, 3, against=target)


def test_a_special_token_is_a_target(opened: ms.Model) -> None:
    for text, token in (("</s>", EOS), ("<turn>", TURN), ("<unk>", UNKNOWN)):
        result = opened.attribute(TEXT, text, top=1, query=False)
        assert (result.target.id, result.target.text) == (token, text)
    # GPT-2's end of text is its unknown token too.
    tokenizer = trained("byte-level")
    tokenizer.add_special_tokens({"eos_token": "<unk>", "bos_token": "<unk>"})
    model = with_tokenizer(opened, tokenizer).language_model
    assert encode_continuation(model, encode_prompt(model, TEXT), "<unk>") == (UNKNOWN,)
    words_only = ms.load((built("llama"), word_tokenizer()))
    assert words_only.attribute("w3", " <pad>", top=1, query=False).target.id == 0
    with pytest.raises(ms.TargetError, match="not in the model's vocabulary"):
        words_only.attribute("w3", " Paris")


ENDINGS = ["Answer: (", "[", "user@", "path/", 'He said "', "well-", "2+2=", "math.", "Tokyo=", "(", "$", "#"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("target", ["A", "4", "sqrt", "Tokyo", "B"])
def test_nothing_is_asked_for_after_a_prompt_that_takes_a_word_as_it_is(
    opened: ms.Model, ending: str, target: str
) -> None:
    if ending == "math." and target[0].isupper():
        return
    ids, together = own_ids(opened, ending), own_ids(opened, ending + target)
    assert together[: len(ids)] == ids
    assert opened.target_tokens(ending, target) == tuple(together[len(ids) :])


@pytest.mark.parametrize("ending", [TEXT, "Answer:", "Paris,", 'the word "Japan"', "(Tokyo)"])
def test_a_forgotten_space_is_told(opened: ms.Model, ending: str) -> None:
    with pytest.raises(ms.TargetError, match="take ' Tokyo'"):
        opened.attribute(ending, "Tokyo")


def test_a_word_with_a_space_is_never_taken_for_one_without() -> None:
    """A tokenizer that puts a space before every text gives ` pan` for `pan`."""
    tokenizer = trained("metaspace")
    (spaced,) = tokenizer("Tokyo", add_special_tokens=False).input_ids
    assert token_text(tokenizer, spaced) == " Tokyo"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
    )
    model = ms.load((LlamaForCausalLM(config).eval(), tokenizer))
    for ending in (TEXT, "The", "He said", "Answer: ("):
        before = tokenizer(ending, add_special_tokens=False).input_ids
        for target in ("Tokyo", "an", " Tokyo", "A"):
            together = tokenizer(ending + target, add_special_tokens=False).input_ids
            try:
                found = model.target_tokens(ending, target)
            except ms.TargetError:
                continue
            assert [*before, *found] == together


def test_a_token_without_text_has_its_name(opened: ms.Model) -> None:
    tokenizer = trained("metaspace")
    tokenizer.add_tokens(["\u200b"])
    n_tokens = len(tokenizer)
    texts = [token_text(tokenizer, i) for i in range(n_tokens)]
    assert all(texts)
    assert token_text(tokenizer, n_tokens + 3) == f"<id {n_tokens + 3}>"
    silent = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<0xE2>": 1}, unk_token="a"))
    )
    silent.backend_tokenizer.decoder = decoders.Replace("<0xE2>", "")
    assert silent.decode([1]) == ""
    assert token_text(silent, 1) == "<0xE2>"
    padded = with_tokenizer(opened, tokenizer).predict([5], top=600).table
    assert (padded["token"] != "").all()


def test_a_target_of_very_low_rank_is_told() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1200, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = ms.load((LlamaForCausalLM(config).eval(), word_tokenizer(1200)))
    order = own_log_p(model, [3, 4]).argsort(descending=True).tolist()
    unlikely, likely = order[1000], order[999]
    assert "is number 1,001 of" in model.attribute("w3 w4", unlikely, top=1, query=False).targets.warning
    assert model.attribute("w3 w4", likely, top=1, query=False).targets.warning == ""
    against = model.attribute("w3 w4", likely, against=unlikely, top=1, query=False).targets
    assert "is number 1,001 of" in against.warning
    together = model.attribute_continuation("w3 w4", f" w{unlikely} w{likely}", top=1, query=False)
    assert "is number 1,001 of" in together.warning
    head = [ms.Head(0, 0)]
    assert "is number 1,001 of" in model.compare_ablation("w3 w4", unlikely, head, seeds=1).warning
    assert model.compare_ablation("w3 w4", likely, head, seeds=1).warning == ""
