"""Tasks of a study: how a study is split, and the worker that runs a task.

Three phases follow each other, each split from the tables of those before: the filter of known facts, the
measurements of single facts, and the measurements of relations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mnemoscope.api import Model, load
from mnemoscope.api.requests import provenance as provenance_of
from mnemoscope.errors import FactsError, OptionError
from mnemoscope.intervention.controls import number_alike
from mnemoscope.model.isolation import isolated
from mnemoscope.model.language_model import weights_digest
from mnemoscope.model.structure import ModelStructure
from mnemoscope.study.columns import FACT, FACTS, OUTCOMES, READINGS, SUMS, TABLES, VALUE_NEURONS, Table
from mnemoscope.study.facts import Fact, ResolvedFact, distinct, evenly, resolve
from mnemoscope.study.filter import filtered_table, to_measure, to_paraphrase
from mnemoscope.study.measure import Tables, measure_facts, measure_neurons
from mnemoscope.study.measure_relations import (
    ablate_heads,
    most_listed_neurons,
    project_neurons,
    relation_heads,
    sum_scores,
)
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.store import read_table


@dataclass(frozen=True)
class ModelSpec:
    """Arguments of `mnemoscope.load`, with which each worker opens the model."""

    model: str = "demo"
    revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    trust_remote_code: bool = False

    def open(self) -> Model:
        """Open the model."""
        return load(**asdict(self))


@dataclass(frozen=True)
class WorkerConfig:
    """Model, facts of the source and options of a study, passed once to every worker."""

    model: ModelSpec
    facts: tuple[Fact, ...]
    options: StudyOptions


@dataclass(frozen=True)
class Task:
    """A unit of work whose output bytes do not depend on the worker that runs it.

    Attributes:
        work: a key of `WORK`.
        key: of the shards that the task writes.
        facts: numbers of the facts.
        given: further input, computed from the tables of earlier phases.
    """

    work: str
    key: str
    facts: tuple[int, ...]
    given: Any = None


class Worker:
    """A model that runs tasks of one study."""

    def __init__(self, config: WorkerConfig, model: Model | None = None) -> None:
        """Open the model unless one is passed."""
        self.options = config.options
        self.facts = {fact.line: fact for fact in config.facts}
        self.model = config.model.open() if model is None else model

    def __call__(self, task: Task) -> dict[str, bytes]:
        """Run a task and return its tables as Parquet files, by name."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.options.threads)
        try:
            with isolated(self.model.language_model.model):
                tables = WORK[task.work].run(self, task)
        finally:
            torch.set_num_threads(before)
        return {name: TABLES[name].encode(table) for name, table in tables.items()}

    def about(self) -> dict[str, Any]:
        """Describe the model and the package versions for the manifest.

        Raises:
            OptionError: the model has too few neurons for controls as large as the ablated sets.
        """
        structure = self.model.language_model.structure
        check_controls(self.options, structure)
        provenance = provenance_of(self.model.language_model, {})
        names = ("model", "revision", "architecture", "dtype", "versions")
        return {
            **{name: getattr(provenance, name) for name in names},
            "weights": weights_digest(self.model.language_model.model),
            "n_layers": self.model.n_layers,
            "n_heads": self.model.n_heads,
            "d_head": structure.d_head,
            "d_ff": self.model.d_ff,
        }

    def resolved(self, task: Task) -> list[ResolvedFact]:
        """Resolve a task's facts, whose targets are known to be one token."""
        return resolve(self.model.language_model, [self.facts[number] for number in task.facts])[0]

    @cached_property
    def all_facts(self) -> tuple[dict[int, ResolvedFact], dict[int, str]]:
        """All facts to filter, and the reasons why others are left out, by number."""
        found, unread = resolve(self.model.language_model, self.facts.values())
        # Of the facts that are tried: a fact beyond the limit has no result that its duplicate could repeat.
        tried = tried_facts(list(self.facts.values()), self.options)
        _, duplicates = distinct(fact for fact in found if fact.fact.line in tried)
        reasons = {bad.line: bad.reason for bad in (*unread, *duplicates)}
        return {fact.fact.line: fact for fact in found if fact.fact.line not in reasons}, reasons


@dataclass(frozen=True)
class Work:
    """Kind of tasks.

    Attributes:
        last: the table that a task writes last: the task is done if its shard of it exists.
        at_once: facts of one task, the most that a kill costs each worker; 0 for tasks without facts.
        run: computes the tables of a task.
    """

    last: Table
    at_once: int
    run: Callable[[Worker, Task], Tables]


# Keys of stored shards begin with these names.
WORK = {
    "judge": Work(
        FACTS, 64, lambda w, task: filtered_table(w.model, *w.all_facts, w.facts, task.facts, w.options)
    ),
    "measure": Work(OUTCOMES, 16, lambda w, task: measure_facts(w.model, w.resolved(task), w.options)),
    "reword": Work(VALUE_NEURONS, 16, lambda w, task: measure_neurons(w.model, w.resolved(task), w.options)),
    "sum": Work(SUMS, 2, lambda w, task: sum_scores(w.model, w.resolved(task), w.options)),
    "heads": Work(
        OUTCOMES, 16, lambda w, task: ablate_heads(w.model, w.resolved(task), task.given, w.options)
    ),
    "read": Work(READINGS, 0, lambda w, task: project_neurons(w.model, task.given)),
}


def tried_facts(facts: Sequence[Fact], options: StudyOptions) -> set[int]:
    """Return the numbers of the facts to filter: of each relation at most `limit`, evenly spaced."""
    relations: dict[str, list[int]] = {}
    for fact in facts:
        relations.setdefault(fact.relation, []).append(fact.line)
    limit = len(facts) if options.limit is None else options.limit
    return {line for lines in relations.values() for line in evenly(lines, limit)}


def filter_tasks(facts: Sequence[Fact], options: StudyOptions) -> list[Task]:
    """Split the first phase: the filter of the facts that the model knows."""
    tried = tried_facts(facts, options)
    # Prompts of similar length run in one batch.
    similar = sorted(facts, key=lambda fact: (len(fact.prompt), fact.line))
    return _split("judge", [fact.line for fact in similar if fact.line in tried])


def measure_tasks(folder: Path, options: StudyOptions) -> list[Task]:
    """Split the second phase: the measurements of single facts, similar facts together.

    Raises:
        FactsError: the model knows none of the facts.
    """
    facts = read_table(folder, FACTS.name)
    known = to_measure(facts)
    if known.empty:
        raise FactsError(
            f"the model knows none of the {len(facts)} facts; the first: {facts['reason'].iloc[0]}; "
            "give facts that it knows, or a higher --rank"
        )
    summed = [
        fact
        for _, group in known.groupby("relation", sort=True)
        for fact in evenly(group[FACT].tolist(), options.summed)
    ]
    return [
        *_split("measure", _similar(known)),
        *_split("reword", _similar(to_paraphrase(facts, options))),
        *_split("sum", summed),
    ]


def compare_tasks(folder: Path, options: StudyOptions) -> list[Task]:
    """Split the third phase: the measurements of relations."""
    known = to_measure(read_table(folder, FACTS.name)).sort_values(["n_tokens", FACT])
    return [
        *_split("heads", known[FACT].tolist(), relation_heads(folder, options)),
        *(
            Task("read", f"read-{number:06d}", (), rows)
            for number, rows in enumerate(most_listed_neurons(folder, options))
        ),
    ]


def _similar(facts: pd.DataFrame) -> list[int]:
    """Return the numbers of facts, with facts of one relation, target and length behind each other."""
    return facts.sort_values(["relation", "token_id", "n_tokens", FACT])[FACT].tolist()


def _split(work: str, facts: Sequence[int], given: Any = None) -> list[Task]:
    at_once = WORK[work].at_once
    return [
        Task(work, f"{work}-{number:06d}", tuple(facts[start : start + at_once]), given)
        for number, start in enumerate(range(0, len(facts), at_once))
    ]


def check_controls(options: StudyOptions, structure: ModelStructure) -> None:
    """Refuse ablated sets that could leave too few neurons for a control of the same size.

    Raises:
        OptionError: a set is larger than half of the neurons that its control is drawn from.
    """
    ffn, attention = number_alike(structure, "ffn"), number_alike(structure, "attention")
    for name, most in {"method_neurons": ffn, "ffn_neurons": ffn, "attention_neurons": attention}.items():
        number = getattr(options, name)
        if 2 * number > most:
            raise OptionError(
                f"{name} is {number}, and the model has {most} such neurons to draw controls from, which "
                f"could leave too few others for one of the same size; give at most {most // 2}"
            )
