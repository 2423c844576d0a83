"""Executors of a study's tasks: this process, several processes, or a Ray cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from typing_extensions import Self

from mnemoscope.api import Model
from mnemoscope.study.tasks import Task, Worker, WorkerConfig

Done = tuple[Task, dict[str, bytes]]
# So often may workers die over one piece before the study gives up.
MOST_DEATHS = 3


class Executor(ABC):
    """Workers that do pieces; a context that ends them.

    Pieces come back in whatever order they are done. Nothing that is written depends on the engine.
    """

    def about(self) -> dict[str, Any]:
        """What a worker says of its model.

        Raises:
            MnemoscopeError: what a worker raised, as it was.
            WorkerError: workers were killed again and again.
        """
        ((_, about),) = self._each(Worker.about, [()])
        return about

    def run(self, pieces: Sequence[Task]) -> Iterator[Done]:
        """Do pieces; each is given back once, as soon as it is done, with the files it makes by table.

        Raises:
            MnemoscopeError: what a worker raised, as it was.
            WorkerError: workers were killed again and again.
        """
        for number, tables in self._each(Worker.__call__, [(piece,) for piece in pieces]):
            yield pieces[number], tables

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the workers, whatever they are doing."""

    @abstractmethod
    def _each(
        self, method: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Call a method of any worker with each of some arguments; number and result of each call, once."""


class SequentialExecutor(Executor):
    """This process does all, one piece after the other."""

    def __init__(self, setup: WorkerConfig, model: Model | None = None) -> None:
        """Open the model if it is not given."""
        self._worker = Worker(setup, model)

    def close(self) -> None:
        """There are no workers to end."""

    def _each(
        self, method: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        for number, arguments in enumerate(calls):
            yield number, method(self._worker, *arguments)
