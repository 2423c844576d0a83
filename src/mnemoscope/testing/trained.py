"""A small GPT-2 that learned made-up facts; the parts that hold them are unknown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope.errors import OptionError
from mnemoscope.testing.tiny import (
    N_POSITIONS,
    NO_DROPOUT,
    TOKENS,
    Fact,
    draw_prompts,
    drawn_anew,
    shuffled_words,
    word_tokenizer,
    words,
)

N_RELATIONS = 3
ANSWERS_PER_RELATION = 8
MOST_FACTS = 120
BATCH = 128
LEARNING_RATE = 3e-3
LABEL_SMOOTHING = 0.1


@dataclass(frozen=True)
class Trained:
    """A model, its tokenizer and the facts that it learned."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: tuple[Fact, ...]


@dataclass(frozen=True, eq=False)
class _Knowledge:
    """Facts to learn as token ids, `[n_facts]` each, and the ids of filler words."""

    subjects: Tensor
    relations: Tensor
    answers: Tensor
    fillers: Tensor


def trained_model(n_facts: int = 30, steps: int = 100, seed: int = 0) -> Trained:
    """Train a small GPT-2 from scratch on made-up facts.

    Each subject has an answer for each of three relations, and each relation has eight answers, so neither
    alone determines the answer. Fillers are random in every step and in the facts' prompts. Smoothed labels
    keep the answers' probabilities near 0.9, so that the ablation of a neuron has an effect.

    Args:
        n_facts: number of facts.
        steps: of training; the default is enough for the default facts.
        seed: determines the weights on one machine.

    Raises:
        OptionError: `n_facts` exceeds the vocabulary.
    """
    if not 1 <= n_facts <= MOST_FACTS:
        raise OptionError(f"n_facts is {n_facts}; give 1 to {MOST_FACTS}")
    generator = torch.Generator().manual_seed(seed)
    knowledge = _draw_knowledge(n_facts, generator)
    model = drawn_anew(_small_gpt2, 0.05, generator)
    _train(model, knowledge, steps, generator)
    facts = []
    for fact in range(n_facts):
        one = slice(fact, fact + 1)
        tokens, _ = draw_prompts(
            knowledge.subjects[one], knowledge.relations[one], knowledge.fillers, generator
        )
        facts.append(Fact(words(*tokens[0].tolist()), f" {words(int(knowledge.answers[fact]))}"))
    return Trained(model, word_tokenizer(), tuple(facts))


def _draw_knowledge(n_facts: int, generator: torch.Generator) -> _Knowledge:
    n_subjects = -(-n_facts // N_RELATIONS)
    drawn = shuffled_words(generator)
    sizes = [n_subjects, N_RELATIONS, N_RELATIONS * ANSWERS_PER_RELATION]
    subjects, relations, answers, fillers = drawn.split([*sizes, len(drawn) - sum(sizes)])
    fact = torch.arange(n_facts)
    relation = fact % N_RELATIONS
    chosen = torch.randint(ANSWERS_PER_RELATION, (n_facts,), generator=generator)
    return _Knowledge(
        subjects=subjects[fact // N_RELATIONS],
        relations=relations[relation],
        answers=answers[relation * ANSWERS_PER_RELATION + chosen],
        fillers=fillers,
    )


def _small_gpt2() -> PreTrainedModel:
    sizes = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 128, "n_positions": N_POSITIONS}
    return GPT2LMHeadModel(GPT2Config(**sizes, **TOKENS, **NO_DROPOUT))


def _train(model: PreTrainedModel, knowledge: _Knowledge, steps: int, generator: torch.Generator) -> None:
    """Train with one thread: more are slower here, and the order of sums would depend on their number."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(steps):
            fact = torch.randint(len(knowledge.answers), (BATCH,), generator=generator)
            subjects, relations = knowledge.subjects[fact], knowledge.relations[fact]
            tokens, _ = draw_prompts(subjects, relations, knowledge.fillers, generator)
            with torch.enable_grad():
                logits = model(input_ids=tokens, use_cache=False).logits[:, -1]
                loss = torch.nn.functional.cross_entropy(
                    logits, knowledge.answers[fact], label_smoothing=LABEL_SMOOTHING
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
    finally:
        torch.set_num_threads(before)
