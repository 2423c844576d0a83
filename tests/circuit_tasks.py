"""Tasks of circuits for tests: pairs whose answers a model tells apart, and pairs of planted facts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

import mnemoscope as ms
from mnemoscope.testing import Planted, words

AGREEMENT = Path(__file__).parents[2] / "shared" / "data" / "sva"


def told_apart(model: ms.Model, n_pairs: int = 8, n_tokens: int = 4) -> list[ms.Pair]:
    """Pairs that differ in two tokens, with the answers whose logits differ most between them."""
    return list(_told_apart(model, n_pairs, n_tokens))


@cache
def _told_apart(model: ms.Model, n_pairs: int, n_tokens: int) -> list[ms.Pair]:
    generator = torch.Generator().manual_seed(0)
    pairs = []
    while len(pairs) < n_pairs:
        clean = (3 + torch.randperm(40, generator=generator)[: n_tokens + 1]).tolist()
        other = [*clean[: n_tokens - 2], clean[n_tokens], clean[n_tokens - 1]]
        texts = [words(*ids) for ids in (clean[:n_tokens], other)]
        logits = []
        for text in texts:
            table = model.predict(text, top=10**6).table.set_index("id").sort_index()
            logits.append(torch.tensor(table["log_probability"].to_numpy()))
        rise = logits[0] - logits[1]
        named = [int(i) for i in rise.argsort() if model.tokenizer.decode([int(i)]).startswith("w")]
        answers = [f" {model.tokenizer.decode([i])}" for i in (named[-1], named[0])]
        pairs.append(ms.Pair(*texts, *answers))
    return pairs


def planted_pairs(planted: Planted, fact: int, other: int) -> list[ms.Pair]:
    """Four equal pairs: the prompt of a fact, and the same with the subject of another."""
    asked, swapped = planted.facts[fact], planted.facts[other]
    tokens = asked.prompt.split()
    tokens[asked.subject_position] = swapped.prompt.split()[swapped.subject_position]
    return [ms.Pair(asked.prompt, " ".join(tokens), asked.target, swapped.target)] * 4


def agreement_file(name: str) -> Path:
    """A file of agreement pairs kept beside the repository; the test is skipped where it is absent."""
    if not (AGREEMENT / name).exists():
        pytest.skip(f"{name} is not beside the repository")
    return AGREEMENT / name
