"""Writes tasks for `mnemoscope circuit compare`: indirect objects (IOI), and capitals of the built-in facts.

usage: python benchmarks/make_circuit_tasks.py FOLDER [--model demo]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from pathlib import Path

import mnemoscope as ms
from mnemoscope.study.pairs import pairs_of_facts

NAMES = ("John", "Mary", "Tom", "James", "Paul", "Anna", "Mark", "David", "Peter", "Sarah")
PLACES = ("store", "park", "school", "station", "garden", "office")
GIFTS = ("book", "drink", "ring", "ball", "letter", "flower")
TEMPLATE = "When {} and {} went to the {}, {} gave a {} to"
N_PAIRS = 200


def indirect_objects() -> list[ms.Pair]:
    """Pairs that differ in the name that gives, so that the other name is the answer."""
    every = list(itertools.product(itertools.permutations(NAMES, 2), PLACES, GIFTS))
    random.Random(0).shuffle(every)
    pairs = []
    for (first, second), place, gift in every[:N_PAIRS]:
        clean, other = (TEMPLATE.format(first, second, place, giver, gift) for giver in (second, first))
        pairs.append(ms.Pair(clean, other, f" {first}", f" {second}"))
    return pairs


def write(folder: Path, name: str, pairs: list[ms.Pair]) -> None:
    for side, some in (("train", pairs[::2]), ("test", pairs[1::2])):
        lines = [json.dumps(vars(pair)) for pair in some]
        (folder / f"{name}_{side}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    model = ms.load(arguments.model).language_model
    write(arguments.folder, "ioi", indirect_objects())
    capitals = list(pairs_of_facts(model, ms.builtin_facts(["capital"])))
    random.Random(0).shuffle(capitals)
    write(arguments.folder, "capitals", capitals)


if __name__ == "__main__":
    main()
