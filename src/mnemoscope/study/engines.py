"""Who does the pieces of a study: this process, several processes, or a Ray cluster.

An engine gives back each piece with the files it makes, in whatever order they are done. Nothing that is
written depends on the engine.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any

from typing_extensions import Self

from mnemoscope.api import Model
from mnemoscope.errors import WorkerError
from mnemoscope.study.work import Piece, Setup, Worker

Done = tuple[Piece, dict[str, bytes]]
# So often may workers die with nothing done in between before the study gives up.
MOST_DEATHS = 3


class Engine(ABC):
    """Workers that do pieces; a context that ends them."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What a worker says of its model."""

    @abstractmethod
    def run(self, pieces: Sequence[Piece]) -> Iterator[Done]:
        """Do pieces; each is given back once, as soon as it is done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


class OneProcess(Engine):
    """This process does all."""

    def __init__(self, setup: Setup, model: Model | None = None) -> None:
        """Open the model if it is not given."""
        self._worker = Worker(setup, model)

    def about(self) -> dict[str, Any]:
        """What the worker says of its model."""
        return self._worker.about()

    def run(self, pieces: Sequence[Piece]) -> Iterator[Done]:
        """One after the other."""
        for piece in pieces:
            yield piece, self._worker(piece)

    def close(self) -> None:
        """There are none."""


class Processes(Engine):
    """Several processes of this machine, each with a model of its own.

    If one dies the others are ended too and all begin anew, with what is not done.
    """

    def __init__(self, setup: Setup, n_workers: int) -> None:
        """Start them when they are needed."""
        self._setup, self._n_workers = setup, n_workers
        self._pool = self._started()

    def about(self) -> dict[str, Any]:
        """What a worker says of its model."""
        return self._pool.submit(_about).result()

    def run(self, pieces: Sequence[Piece]) -> Iterator[Done]:
        """So many at once."""
        left = {piece.key: piece for piece in pieces}
        deaths = 0
        while left:
            try:
                for done in self._run_each(list(left.values())):
                    del left[done[0].key]
                    deaths = 0
                    yield done
            except BrokenProcessPool as error:
                deaths += 1
                if deaths == MOST_DEATHS:
                    raise WorkerError(
                        f"workers were killed {deaths} times with nothing done in between, most likely for "
                        "want of memory; run the same command again with fewer --workers"
                    ) from error
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = self._started()

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        for process in list((self._pool._processes or {}).values()):  # there is no public way before 3.14
            process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run_each(self, pieces: Sequence[Piece]) -> Iterator[Done]:
        waiting = iter(pieces)
        running: dict[Future[dict[str, bytes]], Piece] = {}
        while True:
            for piece in waiting:
                running[self._pool.submit(_work, piece)] = piece
                # One more than there are workers, so that none waits for this process.
                if len(running) > self._n_workers:
                    break
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future.result()

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._n_workers, get_context("spawn"), initializer=_prepare, initargs=(self._setup,)
        )


_setup: Setup | None = None
_worker: Worker | None = None


def _prepare(setup: Setup) -> None:
    """In a new process: what it is for. The model is opened later, where an error can be told."""
    global _setup  # noqa: PLW0603 - a process has one worker
    _setup = setup
    parent = parent_process()
    if parent is not None:
        # A worker whose parent was killed would wait for work for ever.
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _own_worker() -> Worker:
    global _worker  # noqa: PLW0603
    if _worker is None:
        assert _setup is not None
        _worker = Worker(_setup)
    return _worker


def _about() -> dict[str, Any]:
    return _own_worker().about()


def _work(piece: Piece) -> dict[str, bytes]:
    return _own_worker()(piece)
