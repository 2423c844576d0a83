"""Writes tasks for `mnemoscope circuit compare`: indirect objects (IOI), and capitals of the built-in facts.

All prompts of a task have one template and one length, so that each position can have nodes of its own.

usage: python benchmarks/make_circuit_tasks.py FOLDER [--model demo]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import mnemoscope as ms
from mnemoscope.study.facts import pairs_of_facts

NAMES = ("John", "Mary", "Tom", "James", "Paul", "Anna", "Mark", "David", "Peter", "Sarah")
PLACES = ("store", "park", "school", "station", "garden", "office")
GIFTS = ("book", "drink", "ring", "ball", "letter", "flower")
TEMPLATE = "When {} and {} went to the {}, {} gave a {} to"
N_PAIRS = 200
CAPITALS = "The capital city of {} is called"


def indirect_objects() -> list[ms.Pair]:
    """Pairs that differ in the name that gives, so that the other name is the answer."""
    every = list(itertools.product(itertools.permutations(NAMES, 2), PLACES, GIFTS))
    random.Random(0).shuffle(every)
    pairs = []
    for (first, second), place, gift in every[:N_PAIRS]:
        clean, other = (TEMPLATE.format(first, second, place, giver, gift) for giver in (second, first))
        pairs.append(ms.Pair(clean, other, f" {first}", f" {second}"))
    return pairs


def capitals(model: ms.Model) -> list[list[ms.Pair]]:
    """Pairs of the most frequent length; no fact of the training pairs is in a test pair."""
    facts = [fact for fact in ms.builtin_facts(["capital"]) if fact.template == CAPITALS]
    lengths = [len(model.prompt(fact.prompt).ids) for fact in facts]
    ((length, _),) = Counter(lengths).most_common(1)
    facts = [fact for fact, n_tokens in zip(facts, lengths, strict=True) if n_tokens == length]
    random.Random(0).shuffle(facts)
    # Each fact is paired with the next one, so the last pair of either half reaches into the other.
    pairs = list(pairs_of_facts(model.language_model, facts))
    half = len(pairs) // 2
    return [pairs[: half - 1], pairs[half:-1]]


def write(folder: Path, name: str, train: list[ms.Pair], test: list[ms.Pair]) -> None:
    for side, pairs in (("train", train), ("test", test)):
        lines = [json.dumps(vars(pair)) for pair in pairs]
        (folder / f"{name}_{side}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pairs = indirect_objects()
    write(arguments.folder, "ioi", pairs[::2], pairs[1::2])
    write(arguments.folder, "capitals", *capitals(ms.load(arguments.model)))


if __name__ == "__main__":
    main()
