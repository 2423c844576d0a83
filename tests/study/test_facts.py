"""Facts are resolved to tokens, and a limit is spread over relations."""

from __future__ import annotations

import dataclasses

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mnemoscope as ms
from mnemoscope.errors import OptionError
from mnemoscope.study.facts import Fact, resolve, spread
from support import words


def fact(prompt: str, target: str, relation: str = "a", line: int = 1) -> Fact:
    return Fact(line, prompt, target, relation)


@pytest.mark.parametrize(
    ("prompt", "target"), [("w3 w4", "w5"), ("w3 w4", " w5"), ("w3 w4 ", "w5"), ("w3 w4\n", "w5")]
)
def test_resolves_a_target_with_the_space_it_needs(llama: ms.Model, prompt: str, target: str) -> None:
    given = fact(prompt, target)
    (found,), bad_lines = resolve(llama.language_model, [given])
    assert (found.fact, found.prompt.ids, found.target, bad_lines) == (given, (3, 4), 5, [])


@pytest.mark.parametrize(
    ("prompt", "target", "resolves"),
    [
        ("日本", "東", True),
        ("日本", "日本", False),
        ("日", ".", True),
        ("日", "a", False),
        ("日 ", "a", True),
    ],
)
def test_adds_a_space_only_to_a_word_that_needs_one(
    llama: ms.Model, prompt: str, target: str, resolves: bool
) -> None:
    vocabulary = {character: index for index, character in enumerate("? a日本東.")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    model = dataclasses.replace(llama.language_model, tokenizer=characters)
    resolved, _ = resolve(model, [fact(prompt, target)])
    assert [found.target for found in resolved] == ([vocabulary[target]] if resolves else [])


@pytest.mark.parametrize(
    ("prompt", "target", "reason"),
    [
        ("w3", "w4 w5", "2 tokens"),
        ("w3", "Paris", "not in the model's vocabulary"),
        (words(*[3] * 1000), "w4", "the model reads at most"),
    ],
)
def test_tells_what_does_not_resolve(llama: ms.Model, prompt: str, target: str, reason: str) -> None:
    facts = [fact("w3", "w4", line=1), fact(prompt, target, line=7), fact("w3", "w5", line=9)]
    resolved, bad_lines = resolve(llama.language_model, facts)
    assert [found.fact.line for found in resolved] == [1, 9]
    assert [bad.line for bad in bad_lines] == [7]
    assert reason in bad_lines[0].reason


@pytest.mark.parametrize(
    ("target", "aliases", "expected"),
    [
        ("w4", ("w5",), 4),
        ("w4 w5", ("Paris", "w6", "w7"), 6),
        ("Paris", ("w4 w5", " w6"), 6),
    ],
)
def test_the_first_answer_of_one_token_is_the_target(
    llama: ms.Model, target: str, aliases: tuple[str, ...], expected: int
) -> None:
    given = Fact(1, "w3", target, "a", aliases=aliases)
    ((found,), bad_lines) = resolve(llama.language_model, [given])
    assert (found.target, found.fact.target, bad_lines) == (expected, target, [])


def test_what_is_told_of_aliases_that_do_not_help_is_about_the_target(llama: ms.Model) -> None:
    given = [
        Fact(1, "w3", "w4 w5", "a", aliases=("w4 w5 w6", "Paris"), place="item 7"),
        Fact(2, "w3", "Paris", "a", aliases=("w4 w5",)),
    ]
    resolved, bad_lines = resolve(llama.language_model, given)
    assert not resolved
    assert "'w4 w5' is 2 tokens" in bad_lines[0].reason
    assert "not in the model's vocabulary" in bad_lines[1].reason
    assert [bad.where for bad in bad_lines] == ["item 7", "line 2"]


def test_a_limit_is_spread_over_relations(llama: ms.Model) -> None:
    relations = ["a"] * 10 + ["b"] * 2 + ["c"] * 5
    facts = [Fact(i, words(5, 10 + i), " w40", relation) for i, relation in enumerate(relations, 1)]
    resolved, _ = resolve(llama.language_model, facts)
    chosen = [fact.fact.line for fact in spread(resolved, 8)]
    assert chosen == [1, 4, 7, 11, 12, 13, 14, 16]
    assert spread(resolved, 99) == resolved
    assert [fact.fact.line for fact in spread(resolved, 1)] == [1]
    with pytest.raises(OptionError, match="limit is 0"):
        spread(resolved, 0)
