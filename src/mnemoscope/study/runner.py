"""Runner of a study: unfinished tasks run, and each finished task is stored at once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnemoscope.api import Model
from mnemoscope.errors import FactsError, OptionError
from mnemoscope.study import tasks as plan
from mnemoscope.study.columns import KIND
from mnemoscope.study.executors import Executor, SequentialExecutor
from mnemoscope.study.executors.processes import ProcessExecutor
from mnemoscope.study.facts import Fact
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.store import Store, check_folder
from mnemoscope.study.tasks import LAST, ModelSpec, Task, WorkerConfig


@dataclass(frozen=True)
class Progress:
    """How far a phase of a study is.

    Attributes:
        phase: what is being done, in words.
        done: prompts done.
        total: prompts in all.
        relations: prompts done and in all, by relation.
    """

    phase: str
    done: int
    total: int
    relations: dict[str, tuple[int, int]]


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Source:
    """Facts and where they are from.

    Attributes:
        name: of the file or set.
        facts: in their order.
    """

    name: str
    facts: tuple[Fact, ...]

    def to_json(self) -> dict[str, Any]:
        """Name, number and a hash of all that the facts say."""
        content = json.dumps([asdict(fact) for fact in self.facts], ensure_ascii=False).encode()
        return {"name": self.name, "n": len(self.facts), "sha256": hashlib.sha256(content).hexdigest()}


def run_study(
    model: ModelSpec | Model,
    source: Source,
    out: str | Path,
    options: StudyOptions | None = None,
    *,
    workers: int = 1,
    engine: Callable[[WorkerConfig, int], Executor] | None = None,
    report: Report | None = None,
) -> Path:
    """Run a study, or go on with one that was interrupted.

    Args:
        model: how to open the model, or an opened one, which this process alone can use.
        source: the facts.
        out: the study's folder, new or of the same study.
        options: what to measure.
        workers: how many work at once, each with a model of its own.
        engine: who works; None for processes of this machine.
        report: told of progress.

    Returns:
        The folder.

    Raises:
        OptionError: an option makes no sense, or workers are to use an opened model.
        FactsError: there are no facts, or the model knows none of them.
        OutputError: the folder holds something else, is in use or cannot be written.
    """
    options, out = options or StudyOptions(), Path(out)
    options.check()
    _check(model, source, workers)
    check_folder(out)
    with _engine(model, source, options, workers, engine) as workforce:
        manifest = {
            "kind": KIND,
            **workforce.about(),
            "options": options.to_json(),
            "facts": source.to_json(),
        }
        with Store.open(out, manifest) as store:
            phases = (
                ("finding known facts", lambda: plan.filter_tasks(source.facts, options)),
                ("measuring facts", lambda: plan.measure_tasks(store.folder, options)),
                ("comparing relations", lambda: plan.compare_tasks(store.folder, options)),
            )
            for name, pieces in phases:
                _run(store, workforce, pieces(), _Counting(name, source, report))
            return store.folder


def check_workers(workers: int) -> None:
    """Refuse a number of workers that is none.

    Raises:
        OptionError: it is below 1.
    """
    if workers < 1:
        raise OptionError(f"workers is {workers}; give 1 or more")


def _check(model: ModelSpec | Model, source: Source, workers: int) -> None:
    check_workers(workers)
    if isinstance(model, Model) and workers > 1:
        raise OptionError("an opened model is used by one worker; give the model's name, or workers=1")
    if not source.facts:
        raise FactsError(f"there are no facts in {source.name}; give some")
    (line, number), *_ = Counter(fact.line for fact in source.facts).most_common(1)
    if number > 1:
        raise FactsError(f"{number} facts of {source.name} have the number {line}; give each its own")


def _engine(
    model: ModelSpec | Model,
    source: Source,
    options: StudyOptions,
    workers: int,
    engine: Callable[[WorkerConfig, int], Executor] | None,
) -> Executor:
    if isinstance(model, Model):
        return SequentialExecutor(WorkerConfig(ModelSpec(model.name), source.facts, options), model)
    setup = WorkerConfig(model, source.facts, options)
    if engine is not None:
        return engine(setup, workers)
    return SequentialExecutor(setup) if workers == 1 else ProcessExecutor(setup, workers)


class _Counting:
    """Counts the prompts of a phase that are done."""

    def __init__(self, phase: str, source: Source, report: Report | None) -> None:
        self._phase, self._report = phase, report
        self._relation = {fact.line: fact.relation for fact in source.facts}
        self._total: Counter[str] = Counter()
        self._done: Counter[str] = Counter()

    def begin(self, pieces: Sequence[Task], done: Sequence[Task]) -> None:
        """So many pieces there are, and so many an earlier run has done."""
        for counter, some in ((self._total, pieces), (self._done, done)):
            for piece in some:
                counter.update(self._relation[fact] for fact in piece.facts)
        self._tell()

    def add(self, piece: Task) -> None:
        """One more is done."""
        self._done.update(self._relation[fact] for fact in piece.facts)
        self._tell()

    def _tell(self) -> None:
        if self._report is not None:
            relations = {name: (self._done[name], total) for name, total in self._total.items()}
            self._report(Progress(self._phase, self._done.total(), self._total.total(), relations))


def _run(store: Store, workforce: Executor, pieces: Sequence[Task], counting: _Counting) -> None:
    """Do those pieces of a phase that are not there."""
    there = {work: store.done(table) for work, table in LAST.items()}
    done = [piece for piece in pieces if piece.key in there[piece.work]]
    left = [piece for piece in pieces if piece.key not in there[piece.work]]
    counting.begin(pieces, done)
    for piece, tables in workforce.run(left):
        last = LAST[piece.work]
        for name in sorted(tables, key=lambda name: (name == last, name)):
            store.write(name, piece.key, tables[name])
        counting.add(piece)
