"""A language of numbered words, and prompts of facts in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

N_WORDS = 97
SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2}
MOST_FILLERS = 4  # before a subject, and between it and the relation; at least one


@dataclass(frozen=True)
class Fact:
    """A fact: a prompt of fillers, the subject among them and the relation last; and its answer, spaced."""

    prompt: str
    target: str


def word_tokenizer(n_words: int = N_WORDS) -> PreTrainedTokenizerBase:
    """Make a tokenizer whose words are `w3`, `w4`, ...; a word's id is its number."""
    vocabulary = {**SPECIAL, **{f"w{i}": i for i in range(len(SPECIAL), n_words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<pad>", eos_token="</s>"
    )


def words(*ids: int) -> str:
    """Join words into a prompt, by id."""
    return " ".join(f"w{i}" for i in ids)


def shuffled_words(generator: torch.Generator) -> Tensor:
    """Return the ids of all words but the special ones, in random order."""
    return torch.randperm(N_WORDS - len(SPECIAL), generator=generator) + len(SPECIAL)


def draw_prompts(
    subjects: Tensor, relations: Tensor, fillers: Tensor, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Draw prompts of one random length for subjects and relations, token ids `[n_prompts]` each.

    Returns:
        Token ids `[n_prompts, n_tokens]` with random `fillers`, and the subject's position.
    """
    before, after = (torch.randint(MOST_FILLERS, (2,), generator=generator) + 1).tolist()
    shape = (len(subjects), before + 1 + after + 1)
    tokens = fillers[torch.randint(len(fillers), shape, generator=generator)]
    tokens[:, before] = subjects
    tokens[:, -1] = relations
    return tokens, before
