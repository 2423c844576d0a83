"""Where a fact's bare target gets a space: tokens of prompt and target together, by real BPE tokenizers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

import mnemoscope as ms
from mnemoscope.errors import TargetError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import as_a_word, encode_continuation, encode_prompt
from mnemoscope.study.facts import Fact, resolve
from mnemoscope.study.formats import read_facts

# Text before a target, the bare target, and how the two are written.
WRITTEN = [
    ("The city of", "Tokyo", "The city of Tokyo"),
    ("In 19", "Tokyo", "In 19 Tokyo"),
    ("Answer:", "Tokyo", "Answer: Tokyo"),
    ("Paris,", "Tokyo", "Paris, Tokyo"),
    ("Which city?", "Tokyo", "Which city? Tokyo"),
    ("(Paris)", "Tokyo", "(Paris) Tokyo"),
    ('the word "Paris"', "Tokyo", 'the word "Paris" Tokyo'),
    ("said “Paris”", "Tokyo", "said “Paris” Tokyo"),
    ("in St.", "Paul", "in St. Paul"),
    ("well...", "so", "well... so"),
    ("Paris is France, Japan ->", "Tokyo", "Paris is France, Japan -> Tokyo"),
    ("Japan =>", "Tokyo", "Japan => Tokyo"),
    ("Japan —", "Tokyo", "Japan — Tokyo"),
    ("Johnson &", "Paul", "Johnson & Paul"),
    ("Answer: (", "A", "Answer: (A"),
    ("Answer: [", "A", "Answer: [A"),
    ("Answer: {", "A", "Answer: {A"),
    ('He said "', "Tokyo", 'He said "Tokyo'),
    ('("', "Tokyo", '("Tokyo'),
    ("He said “", "Tokyo", "He said “Tokyo"),
    ("He said '", "Tokyo", "He said 'Tokyo"),
    ("Japan'", "s", "Japan's"),
    ("well-", "known", "well-known"),
    ("import math; math.", "sqrt", "import math; math.sqrt"),
    ("path/", "to", "path/to"),
    ("user@", "Tokyo", "user@Tokyo"),
    ("2+2=", "4", "2+2=4"),
    ("x = ", "4", "x = 4"),
    ("It costs $", "5", "It costs $5"),
    ("It is 12:", "30", "It is 12:30"),
    ("There are 1,", "000", "There are 1,000"),
    ("std::", "sort", "std::sort"),
    ("ptr->", "to", "ptr->to"),
    ("a line\n", "Tokyo", "a line\nTokyo"),
    ("日本の首都は", "東京", "日本の首都は東京"),
    ("The city of", " Tokyo", "The city of Tokyo"),
    ("Answer: (", " A", "Answer: ( A"),
    ("The city of", ".", "The city of."),
]
KINDS = ["spaces in tokens", "spaces before words as ▁", "no spaces"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """Byte-level BPE, BPE over `▁` for a space, and BPE over words without their spaces."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    alphabet: list[str] = []
    if request.param == KINDS[0]:
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trained.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif request.param == KINDS[1]:
        spaces = pre_tokenizers.Metaspace(prepend_scheme="first")
        trained.pre_tokenizer = pre_tokenizers.Sequence([spaces, pre_tokenizers.Punctuation()])
        trained.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator([text for *_, text in WRITTEN] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, unk_token="<unk>")


@pytest.fixture
def model(
    llama: ms.Model, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> LanguageModel:
    monkeypatch.setattr("mnemoscope.model.tokens._check_range", lambda *_: None)  # more tokens than the model
    return dataclasses.replace(llama.language_model, tokenizer=tokenizer)


@pytest.mark.parametrize(("prompt", "target", "written"), WRITTEN, ids=[text for *_, text in WRITTEN])
def test_a_facts_target_is_what_follows_its_prompt(
    model: LanguageModel, tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, written: str
) -> None:
    read = encode_prompt(model, prompt)
    assert prompt + as_a_word(model, read, target) == written
    before, together = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, written))
    rest = together[len(before) :]
    (resolved, bad_lines) = resolve(model, [Fact(1, prompt, target, "a")])
    if together[: len(before)] == before and len(rest) == 1 and rest != [tokenizer.unk_token_id]:
        assert [fact.target for fact in resolved] == rest
        # `attribute` and the page take the text with that very space, and refuse no text that needs none.
        follows = as_a_word(model, read, target)
        assert list(encode_continuation(model, read, follows)) == rest
        if follows != target:
            with pytest.raises(TargetError, match="no leading space"):
                encode_continuation(model, read, target)
    else:
        assert len(resolved) + len(bad_lines) == 1
        for fact in resolved:  # whose token would be another one with the end of the prompt
            assert tokenizer.decode([fact.target]) == target


def test_every_kind_is_one_token_for_some_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """So that the test above tests something of each."""
    n_single = 0
    for prompt, _, written in WRITTEN:
        before, together = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, written))
        n_single += together[: len(before)] == before and len(together) == len(before) + 1
    assert n_single > 20


def test_spaces_are_the_same_in_a_file(tmp_path: Path, model: LanguageModel) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "Answer: (", "target": "A", "relation": "a"}\n')
    (found,), _ = resolve(model, read_facts(path).facts)
    assert model.tokenizer.decode([found.target]) == "A"
    assert [*found.prompt.ids, found.target] == model.tokenizer("Answer: (A").input_ids
