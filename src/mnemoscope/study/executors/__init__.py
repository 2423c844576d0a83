"""Executors of a study's tasks: this process, several processes, or a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing import connection, get_context, parent_process
from operator import methodcaller
from typing import Any

from typing_extensions import Self

from mnemoscope.api import Model
from mnemoscope.errors import WorkerError
from mnemoscope.study.tasks import Task, Worker, WorkerConfig

# A picklable function of a worker.
WorkerCall = Callable[[Worker], Any]
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
        ((_, about),) = self._each([Worker.about])
        return about

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, bytes]]]:
        """Run tasks; yield each with its files by table, as soon as it is done.

        Raises:
            MnemoscopeError: as raised in the worker.
            WorkerError: workers were killed again and again.
        """
        for number, tables in self._each([methodcaller("__call__", task) for task in tasks]):
            yield tasks[number], tables

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - there may be none
        """End the workers, whatever they are doing."""

    @abstractmethod
    def _each(self, calls: Sequence[WorkerCall]) -> Iterator[tuple[int, Any]]:
        """Make each call with any worker; yield number and result of each."""


class SequentialExecutor(Executor):
    """Executor that runs all tasks in this process, one after the other."""

    def __init__(self, config: WorkerConfig, model: Model | None = None) -> None:
        """Open the model unless one is passed."""
        self._worker = Worker(config, model)

    def _each(self, calls: Sequence[WorkerCall]) -> Iterator[tuple[int, Any]]:
        for number, call in enumerate(calls):
            yield number, call(self._worker)


class ProcessExecutor(Executor):
    """Worker processes of this machine, each with a model of its own; none outlives this process.

    When one dies, all are replaced and the unfinished calls repeated.
    """

    def __init__(self, config: WorkerConfig, n_workers: int) -> None:
        """Make the pool, which starts its processes with the first calls."""
        self._config, self._n_workers = config, n_workers
        self._pool = self._started()

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        for process in list((self._pool._processes or {}).values()):  # there is no public way before 3.14
            process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _each(self, calls: Sequence[WorkerCall]) -> Iterator[tuple[int, Any]]:
        left = dict(enumerate(calls))
        deaths = 0
        while left:
            try:
                for number, result in self._tried(dict(left)):
                    del left[number]
                    deaths = 0
                    yield number, result
            except BrokenProcessPool as error:
                deaths += 1
                if deaths == MOST_DEATHS:
                    raise WorkerError(
                        f"workers were killed {deaths} times with nothing done in between, most likely for "
                        "want of memory; run the same command again with fewer --workers"
                    ) from error
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = self._started()

    def _tried(self, calls: dict[int, WorkerCall]) -> Iterator[tuple[int, Any]]:
        """Make the calls as `_each` does, until a worker dies.

        Raises:
            BrokenProcessPool: a worker died.
        """
        waiting = iter(calls.items())
        running: dict[Future[Any], int] = {}
        while True:
            for number, call in waiting:
                with _interrupts_held_back():
                    running[self._pool.submit(_called, call)] = number
                # One call more than workers, so that none waits for this process.
                if len(running) > self._n_workers:
                    break
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future.result()

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._n_workers, get_context("spawn"), initializer=_prepare, initargs=(self._config,)
        )


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Block SIGINT: processes started meanwhile never see Ctrl-C, and this process sees it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_config: WorkerConfig | None = None


def _prepare(config: WorkerConfig) -> None:
    """Initialise a worker process. The first call opens the model, since it can return an error."""
    global _config  # noqa: PLW0603 - a process has one worker
    _config = config
    parent = parent_process()
    if parent is not None:
        # A worker whose parent was killed would wait for calls for ever.
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _called(call: WorkerCall) -> Any:
    return call(_worker())


@cache
def _worker() -> Worker:
    """Make the worker of this process."""
    assert _config is not None
    return Worker(_config)
