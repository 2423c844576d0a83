"""A language of numbered words, and what facts look like in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

N_WORDS = 97
SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2}
# The most fillers before a subject, and between it and the relation; at least one stands at each place.
MOST_FILLERS = 4


@dataclass(frozen=True)
class Fact:
    """Something that a model knows.

    Attributes:
        prompt: filler words, the subject somewhere in the middle, the relation last.
        target: the answer's text, with its leading space.
    """

    prompt: str
    target: str


def word_tokenizer(n_words: int = N_WORDS) -> PreTrainedTokenizerBase:
    """A tokenizer whose words are `w3`, `w4`, ...; a word's id is its number."""
    vocabulary = {**SPECIAL, **{f"w{i}": i for i in range(len(SPECIAL), n_words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<pad>", eos_token="</s>"
    )


def words(*ids: int) -> str:
    """A prompt of the tiny models."""
    return " ".join(f"w{i}" for i in ids)


def shuffled_words(generator: torch.Generator) -> Tensor:
    """The ids of all words but the special ones, in random order."""
    return torch.randperm(N_WORDS - len(SPECIAL), generator=generator) + len(SPECIAL)


def draw_prompts(
    subjects: Tensor, relations: Tensor, fillers: Tensor, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Prompts of one random length that ask for the relation of each subject.

    Args:
        subjects: token ids, `[n_prompts]`.
        relations: token ids, `[n_prompts]`.
        fillers: token ids to draw from, `[n_fillers]`.
        generator: decides.

    Returns:
        Token ids `[n_prompts, n_tokens]`, and the subject's position.
    """
    before, after = (torch.randint(MOST_FILLERS, (2,), generator=generator) + 1).tolist()
    shape = (len(subjects), before + 1 + after + 1)
    tokens = fillers[torch.randint(len(fillers), shape, generator=generator)]
    tokens[:, before] = subjects
    tokens[:, -1] = relations
    return tokens, before
