"""Chat templates: what a user says, as the model reads it."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing

import mnemoscope as ms
from support import built, word_tokenizer

# Begins with the token that the tokenizer puts before every text, as those of Llama and Gemma do.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] == 'w13' %}{{ raise_exception('not w13') }}{% endif %}"
    " w7 {{ message['content'] }} </s>{% endfor %}{% if add_generation_prompt %} w8{% endif %}"
)
BOS, EOS = 1, 2


@pytest.fixture
def chat_model() -> ms.Model:
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    tokenizer.chat_template = TEMPLATE
    return ms.load((built("llama"), tokenizer))


def test_what_is_said_is_read_as_the_template_has_it(chat_model: ms.Model) -> None:
    tokenizer = chat_model.language_model.tokenizer
    assert tokenizer("w5").input_ids == [BOS, 5]
    prompt = chat_model.chat_prompt("w5 w6")
    found = chat_model.predict(prompt)
    messages = [{"role": "user", "content": "w5 w6"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(found.token_ids) == expected == [BOS, 7, 5, 6, EOS, 8]
    assert found.tokens[0] == "<s>"
    assert found.tokens[4] == "</s>"
    assert chat_model.predict("w5 w6").token_ids == (BOS, 5, 6)
    # A written special token is read as such only once, and text can be put behind the template's.
    assert chat_model.predict(f"{prompt.text} w9").token_ids == (*expected, 9)


def test_results_say_what_was_read(chat_model: ms.Model) -> None:
    prompt = chat_model.chat_prompt("w5")
    result = chat_model.attribute(prompt, " w9", top=2)
    assert result.prompt == prompt.text == "<s> w7 w5 </s> w8"
    assert result.token_ids == (BOS, 7, 5, EOS, 8)
    assert result.target.id == 9


def test_after_a_special_token_no_space_is_missing() -> None:
    model = ms.load((built("llama"), word_tokenizer()))
    assert model.attribute("w5 </s>", "w9", top=1).target.id == 9
    with pytest.raises(ms.TargetError, match="no leading space"):
        model.attribute("w5 w6", "w9", top=1)


def test_what_cannot_be_put_into_a_template_is_told(chat_model: ms.Model) -> None:
    with pytest.raises(ms.PromptError, match="the prompt is empty"):
        chat_model.chat_prompt("")
    with pytest.raises(ms.PromptError, match=r"refuses the prompt \(TemplateError: not w13\)"):
        chat_model.chat_prompt("w13")
    with pytest.raises(ms.OptionError, match="has no chat template"):
        ms.load((built("llama"), word_tokenizer())).chat_prompt("w5")
