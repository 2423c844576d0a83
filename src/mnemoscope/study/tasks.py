"""Tasks of a study: how a study is split, and the worker that runs a task.

Three phases follow each other, each split from the tables of those before: the filter of known facts, the
measurements of single facts, and the measurements of relations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import ceil
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
from mnemoscope.study.columns import FACT, FACTS, HEADS, QUERY_NEURONS, TABLES, VALUE_NEURONS
from mnemoscope.study.facts import Fact, ResolvedFact, distinct, resolve
from mnemoscope.study.filter import filtered_table, to_measure, to_paraphrase
from mnemoscope.study.measure import Tables, measure_facts, measure_neurons
from mnemoscope.study.measure_relations import ablate_heads, project_neurons, sum_scores
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
                tables = WORK[task.work](self, task)
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
        """All facts to filter, and the reasons why others are none, by number."""
        found, unread = resolve(self.model.language_model, self.facts.values())
        # Of the facts that are tried: a fact beyond the limit has no result that its duplicate could repeat.
        tried = tried_facts(list(self.facts.values()), self.options)
        _, duplicates = distinct(fact for fact in found if fact.fact.line in tried)
        reasons = {bad.line: bad.reason for bad in (*unread, *duplicates)}
        return {fact.fact.line: fact for fact in found if fact.fact.line not in reasons}, reasons


WORK: dict[str, Callable[[Worker, Task], Tables]] = {
    "judge": lambda w, task: filtered_table(w.model, *w.all_facts, w.facts, task.facts, w.options),
    "measure": lambda w, task: measure_facts(w.model, w.resolved(task), w.options),
    "reword": lambda w, task: measure_neurons(w.model, w.resolved(task), w.options),
    "sum": lambda w, task: sum_scores(w.model, w.resolved(task), w.options),
    "heads": lambda w, task: ablate_heads(w.model, w.resolved(task), task.given, w.options),
    "read": lambda w, task: project_neurons(w.model, task.given),
}
# The table that each kind of work writes last: a task is done if its shard of it exists.
LAST = {
    "judge": "facts",
    "measure": "outcomes",
    "reword": "value_neurons",
    "sum": "sums",
    "heads": "outcomes",
    "read": "readings",
}

# Facts of one task: what a kill costs at most, for each worker.
JUDGED_AT_ONCE = 64
MEASURED_AT_ONCE = 16
SUMMED_AT_ONCE = 2


def tried_facts(facts: Sequence[Fact], options: StudyOptions) -> set[int]:
    """Return the numbers of the facts to filter: of each relation at most `limit`, evenly spaced."""
    relations: dict[str, list[int]] = {}
    for fact in facts:
        relations.setdefault(fact.relation, []).append(fact.line)
    limit = len(facts) if options.limit is None else options.limit
    return {line for lines in relations.values() for line in _evenly(lines, limit)}


def filter_tasks(facts: Sequence[Fact], options: StudyOptions) -> list[Task]:
    """Split the first phase: the filter of the facts that the model knows."""
    tried = tried_facts(facts, options)
    # Prompts of similar length run in one batch.
    similar = sorted(facts, key=lambda fact: (len(fact.prompt), fact.line))
    return _split("judge", [fact.line for fact in similar if fact.line in tried], JUDGED_AT_ONCE)


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
        for fact in _evenly(group[FACT].tolist(), options.summed)
    ]
    return [
        *_split("measure", _similar(known), MEASURED_AT_ONCE),
        *_split("reword", _similar(to_paraphrase(facts, options)), MEASURED_AT_ONCE),
        *_split("sum", summed, SUMMED_AT_ONCE),
    ]


def compare_tasks(folder: Path, options: StudyOptions) -> list[Task]:
    """Split the third phase: the measurements of relations."""
    known = to_measure(read_table(folder, FACTS.name)).sort_values(["n_tokens", FACT])
    return [
        *_split("heads", known[FACT].tolist(), MEASURED_AT_ONCE, relation_heads(folder, options)),
        *(
            Task("read", f"read-{number:06d}", (), rows)
            for number, rows in enumerate(shared_neurons(folder, options))
        ),
    ]


def _relations(folder: Path) -> pd.DataFrame:
    """Return number and relation of the known facts."""
    return to_measure(read_table(folder, FACTS.name)).filter([FACT, "relation"])


def relation_heads(folder: Path, options: StudyOptions) -> dict[str, list[tuple[int, int]]]:
    """Return (layer, head) of the heads with the highest mean score of each relation, `head_share` of all."""
    heads = read_table(folder, HEADS.name).merge(_relations(folder), on=FACT)
    found = {}
    for relation, group in heads.groupby("relation", sort=True):
        means = group.groupby(["layer", "head"], as_index=False).agg({"score": "mean"})
        best = means.sort_values(by="score", ascending=False, kind="stable")
        best = best.head(ceil(options.head_share * len(means)))
        found[str(relation)] = list(zip(best["layer"].tolist(), best["head"].tolist(), strict=True))
    return found


def shared_neurons(folder: Path, options: StudyOptions) -> Iterator[list[dict[str, Any]]]:
    """Yield each relation's most frequently listed neurons, as rows of `READINGS` without tokens."""
    known = _relations(folder)
    values = read_table(folder, VALUE_NEURONS.name).merge(known, on=FACT)
    queries = read_table(folder, QUERY_NEURONS.name)
    lists = {
        "attention_value": values.query("kind == 'attention'"),
        "ffn_value": values.query("kind == 'ffn'"),
    }
    if not queries.empty:
        lists["ffn_query"] = queries.merge(known, on=FACT)
    for relation, n_facts in sorted(Counter(known["relation"].tolist()).items()):
        rows = []
        for name, table in lists.items():
            rows += _most_shared(table.query("relation == @relation"), name, n_facts, options.read)
        yield [{"relation": relation, **row} for row in rows]


def _most_shared(table: pd.DataFrame, name: str, n_facts: int, most: int) -> list[dict[str, Any]]:
    names = ["layer", "head", "dim"] if name == "attention_value" else ["layer", "neuron"]
    measures = [column for column in ("score", "coefficient") if column in table]
    # A neuron listed at several positions counts once a fact, its scores added up.
    of_facts = table.groupby([FACT, *names], as_index=False).agg(dict.fromkeys(measures, "sum"))
    found = of_facts.groupby(names, as_index=False).agg({**dict.fromkeys(measures, "mean"), FACT: "count"})
    found = found.rename(columns={FACT: "n_facts"})
    found = found.sort_values(by=["n_facts", "score"], ascending=False, kind="stable").head(most)
    return [
        {
            "list": name,
            "place": place,
            "layer": int(row["layer"]),
            **{column: int(row[column]) if column in names else None for column in ("neuron", "head", "dim")},
            "n_facts": int(row["n_facts"]),
            "share": row["n_facts"] / n_facts,
            "mean_score": row["score"],
            "mean_coefficient": row.get("coefficient"),
        }
        for place, row in enumerate(found.to_dict("records"), 1)
    ]


def _similar(facts: pd.DataFrame) -> list[int]:
    """Return the numbers of facts, with facts of one relation, target and length behind each other."""
    return facts.sort_values(["relation", "token_id", "n_tokens", FACT])[FACT].tolist()


def _split(work: str, facts: Sequence[int], at_once: int, given: Any = None) -> list[Task]:
    return [
        Task(work, f"{work}-{number:06d}", tuple(facts[start : start + at_once]), given)
        for number, start in enumerate(range(0, len(facts), at_once))
    ]


def _evenly(values: Sequence[int], n: int) -> list[int]:
    """Return at most n of the values, evenly spaced."""
    share = min(n, len(values))
    return [values[i * len(values) // share] for i in range(share)]


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
