"""Tasks of a study: their split, and the worker that runs one with a model of its own.

Three phases follow each other, because each rests on the tables of those before: which facts the model knows;
what is measured fact by fact; what relations have in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mnemoscope.api import Model, load
from mnemoscope.api.requests import provenance as provenance_of
from mnemoscope.errors import FactsError
from mnemoscope.model.isolation import isolated
from mnemoscope.study.columns import FACT, FACTS, HEADS, QUERY_NEURONS, TABLES, VALUE_NEURONS
from mnemoscope.study.facts import Fact, ResolvedFact, resolve
from mnemoscope.study.filter import to_measure, to_paraphrase
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.store import read_table


@dataclass(frozen=True)
class ModelSpec:
    """How a worker opens the model; the arguments of `mnemoscope.load`."""

    model: str = "demo"
    revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    trust_remote_code: bool = False

    def open(self) -> Model:
        """Open it."""
        return load(
            self.model,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True)
class WorkerConfig:
    """What every worker is given once.

    Attributes:
        model: the model.
        facts: all facts of the source.
        options: of the study.
    """

    model: ModelSpec
    facts: tuple[Fact, ...]
    options: StudyOptions


@dataclass(frozen=True)
class Task:
    """One piece of work; the same piece gives the same bytes, whoever does it.

    Attributes:
        work: what is to be done, a key of `WORK`.
        key: of the shards that it gives.
        facts: numbers of the facts it is about.
        given: what else it needs, found in the tables of earlier phases.
    """

    work: str
    key: str
    facts: tuple[int, ...]
    given: Any = None


class Worker:
    """A model, and what it is asked about."""

    def __init__(self, setup: WorkerConfig, model: Model | None = None) -> None:
        """Open the model if it is not given."""
        self.options = setup.options
        self.facts = {fact.line: fact for fact in setup.facts}
        self.model = setup.model.open() if model is None else model

    def __call__(self, piece: Task) -> dict[str, bytes]:
        """Do a piece; the tables that it gives, as Parquet files."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.options.threads)
        try:
            with isolated(self.model.language_model.model):
                tables = WORK[piece.work](self, piece)
        finally:
            torch.set_num_threads(before)
        return {name: TABLES[name].encode(table) for name, table in tables.items()}

    def about(self) -> dict[str, Any]:
        """The model and the packages, for the manifest.

        Raises:
            OptionError: the model has too few neurons for the controls of what the options zero.
        """
        self.options.check_controls(self.model.language_model.structure)
        provenance = provenance_of(self.model.language_model, {})
        return {
            "model": provenance.model,
            "revision": provenance.revision,
            "architecture": provenance.architecture,
            "dtype": provenance.dtype,
            "versions": provenance.versions,
            "n_layers": self.model.n_layers,
            "n_heads": self.model.n_heads,
            "d_head": self.model.language_model.structure.d_head,
            "d_ff": self.model.d_ff,
        }

    def resolved(self, numbers: Sequence[int]) -> list[ResolvedFact]:
        """Facts that are known to be one token after their prompt."""
        found, _ = resolve(self.model.language_model, [self.facts[number] for number in numbers])
        return found

    @cached_property
    def everything(self) -> tuple[dict[int, ResolvedFact], dict[int, str]]:
        """All facts as the model reads them, and why it cannot read the others, by number."""
        found, unread = resolve(self.model.language_model, self.facts.values())
        return {fact.fact.line: fact for fact in found}, {bad.line: bad.reason for bad in unread}


def _judge(worker: Worker, piece: Task) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.filter import filtered_table

    return filtered_table(worker.model, *worker.everything, worker.facts, piece.facts, worker.options)


def _measure(worker: Worker, piece: Task) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.measure import measure_facts

    return measure_facts(worker.model, worker.resolved(piece.facts), worker.options)


def _reword(worker: Worker, piece: Task) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.measure import measure_neurons

    return measure_neurons(worker.model, worker.resolved(piece.facts), worker.options)


def _sum(worker: Worker, piece: Task) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.measure_relations import sum_scores

    return sum_scores(worker.model, worker.resolved(piece.facts), worker.options)


def _without_heads(worker: Worker, piece: Task) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.measure_relations import ablate_heads

    return ablate_heads(worker.model, worker.resolved(piece.facts), piece.given, worker.options)


def _read(worker: Worker, piece: Task) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.measure_relations import project_neurons

    return project_neurons(worker.model, piece.given)


WORK: dict[str, Callable[[Worker, Task], dict[str, pd.DataFrame]]] = {
    "judge": _judge,
    "measure": _measure,
    "reword": _reword,
    "sum": _sum,
    "heads": _without_heads,
    "read": _read,
}
# The table of each sort of work that is written last: a piece whose shard is there is done.
LAST = {
    "judge": "facts",
    "measure": "outcomes",
    "reword": "value_neurons",
    "sum": "sums",
    "heads": "outcomes",
    "read": "readings",
}


# Facts of one piece: what a kill costs at most, by worker.
JUDGED_AT_ONCE = 64
MEASURED_AT_ONCE = 16
SUMMED_AT_ONCE = 2


def filter_tasks(facts: Sequence[Fact], options: StudyOptions) -> list[Task]:
    """The first phase: which facts the model knows."""
    relations: dict[str, list[int]] = {}
    for fact in facts:
        relations.setdefault(fact.relation, []).append(fact.line)
    limit = len(facts) if options.limit is None else options.limit
    tried = {line for lines in relations.values() for line in _evenly(lines, limit)}
    # Prompts of about the same length, which run together.
    similar = sorted(facts, key=lambda fact: (len(fact.prompt), fact.line))
    return _pieces("judge", [fact.line for fact in similar if fact.line in tried], JUDGED_AT_ONCE)


def measure_tasks(folder: Path, options: StudyOptions) -> list[Task]:
    """The second phase: what is measured fact by fact, similar facts together.

    Raises:
        FactsError: the model knows none of them.
    """
    known = known_facts(folder)
    if known.empty:
        reasons = read_table(folder, FACTS.name)["reason"]
        raise FactsError(
            f"the model knows none of the {len(reasons)} facts; the first: {reasons.iloc[0]}; "
            "give facts that it knows, or a higher --rank"
        )
    reworded = to_paraphrase(read_table(folder, FACTS.name), options)
    sum_scores = [
        fact
        for _, group in known.groupby("relation", sort=True)
        for fact in _evenly(group[FACT].tolist(), options.summed)
    ]
    return [
        *_pieces("measure", _similar(known), MEASURED_AT_ONCE),
        *_pieces("reword", _similar(reworded), MEASURED_AT_ONCE),
        *_pieces("sum", sum_scores, SUMMED_AT_ONCE),
    ]


def compare_tasks(folder: Path, options: StudyOptions) -> list[Task]:
    """The third phase: what facts of a relation share."""
    known = known_facts(folder)
    heads = relation_heads(folder, options)
    similar = known.sort_values(["n_tokens", FACT])
    return [
        *_pieces("heads", similar[FACT].tolist(), MEASURED_AT_ONCE, heads),
        *(
            Task("read", f"read-{number:06d}", (), rows)
            for number, rows in enumerate(shared_neurons(folder, options))
        ),
    ]


def known_facts(folder: Path) -> pd.DataFrame:
    """The rows of `FACTS` that the study rests on, by number."""
    return to_measure(read_table(folder, FACTS.name))


def _relations(folder: Path) -> pd.DataFrame:
    """Number and relation of these facts."""
    return known_facts(folder).filter([FACT, "relation"])


def relation_heads(folder: Path, options: StudyOptions) -> dict[str, list[tuple[int, int]]]:
    """The heads with the highest mean score over the facts of each relation, a share of all heads."""
    heads = read_table(folder, HEADS.name).merge(_relations(folder), on=FACT)
    found = {}
    for relation, group in heads.groupby("relation", sort=True):
        means = group.groupby(["layer", "head"], as_index=False).agg({"score": "mean"})
        best = means.sort_values(by="score", ascending=False, kind="stable")
        best = best.head(ceil(options.head_share * len(means)))
        found[str(relation)] = list(zip(best["layer"].tolist(), best["head"].tolist(), strict=True))
    return found


def shared_neurons(folder: Path, options: StudyOptions) -> Iterator[list[dict[str, Any]]]:
    """For each relation the neurons in most of its facts' lists, as rows of `READINGS` without tokens."""
    known = _relations(folder)
    sizes = Counter(known["relation"].tolist())
    values = read_table(folder, VALUE_NEURONS.name).merge(known, on=FACT)
    queries = read_table(folder, QUERY_NEURONS.name)
    lists = {
        "attention_value": values.query("kind == 'attention'"),
        "ffn_value": values.query("kind == 'ffn'"),
    }
    if not queries.empty:
        lists["ffn_query"] = queries.merge(known, on=FACT)
    for relation, n_facts in sorted(sizes.items()):
        rows = []
        for name, table in lists.items():
            rows += _most_shared(table.query("relation == @relation"), name, n_facts, options.read)
        yield [{"relation": relation, **row} for row in rows]


def _most_shared(table: pd.DataFrame, name: str, n_facts: int, most: int) -> list[dict[str, Any]]:
    """The neurons of a list that most facts have; a neuron at several positions counts once a fact."""
    names = ["layer", "head", "dim"] if name == "attention_value" else ["layer", "neuron"]
    measures = [column for column in ("score", "coefficient") if column in table]
    # A neuron at several positions adds up to what it does as a whole.
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
    """Numbers of facts, those that have much in common behind each other."""
    return facts.sort_values(["relation", "token_id", "n_tokens", FACT])[FACT].tolist()


def _pieces(work: str, facts: Sequence[int], at_once: int, given: Any = None) -> list[Task]:
    return [
        Task(work, f"{work}-{number:06d}", tuple(facts[start : start + at_once]), given)
        for number, start in enumerate(range(0, len(facts), at_once))
    ]


def _evenly(values: Sequence[int], n: int) -> list[int]:
    """At most n of some values, at even distances."""
    share = min(n, len(values))
    return [values[i * len(values) // share] for i in range(share)]
