"""What a study costs, as a ratio to plain batched forward passes over the same prompts.

    python benchmarks/study.py            # some minutes

Plain forward passes (the model as transformers gives it, prompts padded to batches) and attributions of the
same batches take turns, and the sums of both are compared. One thread, as the workers of a study have. What a
worker measures of the weights once, at its first facts, is timed by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch

import mnemoscope as ms
from measuring import write
from mnemoscope.attribution.methods.ranks import FEW_TARGETS
from mnemoscope.study.facts import ResolvedFact, builtin_facts, resolve
from mnemoscope.study.filter import known_facts
from mnemoscope.study.measure import attribute_facts, measure_facts
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.tasks import WORK


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--relation", default="capital", help="of the package's own facts")
    parser.add_argument("--batches", type=int, default=4, help="of 16 facts")
    arguments = parser.parse_args()
    torch.set_num_threads(StudyOptions().threads)
    model = ms.load("demo")
    resolved, _ = resolve(model.language_model, builtin_facts([arguments.relation]))
    known, _ = known_facts(model.language_model, resolved)
    similar = sorted(known, key=lambda fact: (fact.target, len(fact.prompt.ids), fact.fact.line))
    at_once = WORK["measure"].at_once
    batches = [similar[start : start + at_once] for start in range(0, len(similar), at_once)]
    first = list({fact.target: fact for fact in similar}.values())[: FEW_TARGETS + 1]
    batches = batches[: arguments.batches]
    options = StudyOptions()
    ways: dict[str, Callable[[Sequence[ResolvedFact]], object]] = {
        "plain batched forward passes": lambda facts: forward(model, facts),
        "value and query attribution": lambda facts: attribution(model, facts, options),
        "all that a study measures of a fact": lambda facts: measure_facts(model, facts, options),
    }
    seconds = dict.fromkeys(ways, 0.0)
    start = time.perf_counter()
    for way in ways.values():
        way(first)
    once = time.perf_counter() - start
    for facts in batches:
        for name, way in ways.items():
            start = time.perf_counter()
            way(facts)
            seconds[name] += time.perf_counter() - start
    n_facts = sum(map(len, batches))
    base = seconds["plain batched forward passes"]
    how = f"{options.threads} thread, torch {torch.__version__}"
    write(f"{model!r}; {n_facts} facts ({arguments.relation}), {how}")
    once -= len(first) * sum(seconds.values()) / n_facts
    write(f"{'once in a worker, for any number of facts':40} {once:8.0f} s")
    for name, value in seconds.items():
        write(f"{name:40} {1e3 * value / n_facts:8.0f} ms a fact {value / base:8.1f} x")


def forward(model: ms.Model, facts: Sequence[ResolvedFact]) -> None:
    """The model as transformers gives it."""
    # Padded on the right, which a causal model's own tokens do not see.
    rows = [torch.tensor(fact.prompt.ids) for fact in facts]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        model.language_model.model(input_ids=tokens, attention_mask=mask)


def attribution(model: ms.Model, facts: Sequence[ResolvedFact], options: StudyOptions) -> None:
    """The tables of value and query neurons."""
    for measurement, query in attribute_facts(model, facts, options):
        list(measurement.attribution(query))


if __name__ == "__main__":
    main()
