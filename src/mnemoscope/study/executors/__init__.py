"""Executors of a study's tasks: this process, several processes, or a Ray cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from typing_extensions import Self

from mnemoscope.api import Model
from mnemoscope.study.tasks import Task, Worker, WorkerConfig

MOST_DEATHS = 3  # of workers over one task, before the study ends with an error


class Executor(ABC):
    """Base class of the executors that run a study's tasks; a context that ends the workers.

    Results come in the order of completion. No stored byte depends on the executor.
    """

    def about(self) -> dict[str, Any]:
        """Return a worker's description of its model.

        Raises:
            MnemoscopeError: as raised in the worker.
            WorkerError: workers were killed again and again.
        """
        ((_, about),) = self._each(Worker.about, [()])
        return about

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, bytes]]]:
        """Run tasks; yield each with its files by table, as soon as it is done.

        Raises:
            MnemoscopeError: as raised in the worker.
            WorkerError: workers were killed again and again.
        """
        for number, tables in self._each(Worker.__call__, [(task,) for task in tasks]):
            yield tasks[number], tables

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - there may be none
        """End the workers, whatever they are doing."""

    @abstractmethod
    def _each(
        self, method: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Call a method of any worker with each tuple of arguments; yield number and result of each call."""


class SequentialExecutor(Executor):
    """Runs all tasks in this process, one after the other."""

    def __init__(self, config: WorkerConfig, model: Model | None = None) -> None:
        """Open the model unless one is passed."""
        self._worker = Worker(config, model)

    def _each(
        self, method: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        for number, arguments in enumerate(calls):
            yield number, method(self._worker, *arguments)
