"""Runner of a study: unfinished tasks run, and each finished task is stored at once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mnemoscope.api import Model
from mnemoscope.errors import FactsError, OptionError
from mnemoscope.study import tasks as plan
from mnemoscope.study.columns import KIND
from mnemoscope.study.executors import Executor, ProcessExecutor, SequentialExecutor
from mnemoscope.study.facts import Fact
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.store import Store, check_folder
from mnemoscope.study.tasks import WORK, ModelSpec, Task, WorkerConfig


@dataclass(frozen=True)
class Progress:
    """Progress of one phase of a study.

    Attributes:
        phase: its name.
        done: prompts done.
        total: prompts in all.
        relations: prompts done and in all, by relation.
    """

    phase: str
    done: int
    total: int
    relations: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Source:
    """A named sequence of facts, such as a file."""

    name: str
    facts: tuple[Fact, ...]

    def to_json(self) -> dict[str, Any]:
        """Return name, number and SHA-256 of the facts."""
        content = json.dumps([asdict(fact) for fact in self.facts], ensure_ascii=False).encode()
        return {"name": self.name, "n": len(self.facts), "sha256": hashlib.sha256(content).hexdigest()}


def run_study(
    model: ModelSpec | Model,
    source: Source,
    out: str | Path,
    options: StudyOptions | None = None,
    *,
    workers: int = 1,
    executor: Callable[[WorkerConfig, int], Executor] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Path:
    """Run a study, or continue one that was interrupted.

    Args:
        model: how to open the model, or an opened one, which allows only one worker.
        source: the facts.
        out: a new folder, or the folder of the same study.
        options: of the study.
        workers: number of workers, each with a model of its own.
        executor: makes the executor from the config and the number of workers; None for processes of this
            machine.
        report: called with the progress after each task.

    Returns:
        The folder.

    Raises:
        OptionError: an option is out of range, or an opened model is to be used by several workers.
        FactsError: there are no facts, two have one number, or the model knows none of them.
        OutputError: the folder holds something else, is in use or cannot be written.
    """
    options, out = options or StudyOptions(), Path(out)
    options.check()
    check_workers(workers)
    if isinstance(model, Model) and workers > 1:
        raise OptionError("an opened model is used by one worker; give the model's name, or workers=1")
    if not source.facts:
        raise FactsError(f"there are no facts in {source.name}; give some")
    (line, number), *_ = Counter(fact.line for fact in source.facts).most_common(1)
    if number > 1:
        raise FactsError(f"{number} facts of {source.name} have the number {line}; give each its own")
    check_folder(out)
    with _executor(model, source, options, workers, executor) as running:
        manifest = {
            "kind": KIND,
            **running.about(),
            "options": options.to_json(),
            "facts": source.to_json(),
        }
        with Store.open(out, manifest) as store:
            run = partial(_run, store, running, source, report)
            run("finding known facts", plan.filter_tasks(source.facts, options))
            run("measuring facts", plan.measure_tasks(store.folder, options))
            run("comparing relations", plan.compare_tasks(store.folder, options))
            return store.folder


def check_workers(workers: int) -> None:
    """Raise OptionError if the number of workers is below 1."""
    if workers < 1:
        raise OptionError(f"workers is {workers}; give 1 or more")


def _executor(
    model: ModelSpec | Model,
    source: Source,
    options: StudyOptions,
    workers: int,
    make: Callable[[WorkerConfig, int], Executor] | None,
) -> Executor:
    if isinstance(model, Model):
        return SequentialExecutor(WorkerConfig(ModelSpec(model.name), source.facts, options), model)
    config = WorkerConfig(model, source.facts, options)
    if make is not None:
        return make(config, workers)
    return SequentialExecutor(config) if workers == 1 else ProcessExecutor(config, workers)


def _run(
    store: Store,
    executor: Executor,
    source: Source,
    report: Callable[[Progress], None] | None,
    phase: str,
    tasks: Sequence[Task],
) -> None:
    """Run the tasks of a phase that are not stored yet; report before the first and after each."""
    stored = {name: store.done(work.last.name) for name, work in WORK.items()}
    left = [task for task in tasks if task.key not in stored[task.work]]
    relation = {fact.line: fact.relation for fact in source.facts}
    total = Counter(relation[fact] for task in tasks for fact in task.facts)
    done = total - Counter(relation[fact] for task in left for fact in task.facts)

    def report_progress() -> None:
        if report is not None:
            relations = {name: (done[name], number) for name, number in total.items()}
            report(Progress(phase, done.total(), total.total(), relations))

    report_progress()
    for task, tables in executor.run(left):
        last = WORK[task.work].last.name
        for name in sorted(tables, key=lambda name: (name == last, name)):
            store.write(name, task.key, tables[name])
        done.update(relation[fact] for fact in task.facts)
        report_progress()
