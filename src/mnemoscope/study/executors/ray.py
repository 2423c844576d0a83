"""Executor on a Ray cluster: one actor for each worker, each with a model of its own."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from mnemoscope.errors import MnemoscopeError, OptionError, WorkerError, missing_extra
from mnemoscope.study.executors import MOST_DEATHS, Executor, WorkerCall
from mnemoscope.study.store import one_line
from mnemoscope.study.tasks import Worker, WorkerConfig

LOCAL = "local"  # Ray's address for a new cluster of this machine


class RayExecutor(Executor):
    """Ray actors that live as long as the executor, so each worker opens its model once.

    Actors write no files; they return results to this process. A lost actor is replaced and its call is
    repeated. An actor gets a call only once the cluster has started it, so pending actors delay nothing.
    """

    def __init__(self, config: WorkerConfig, n_workers: int, address: str | None = None) -> None:
        """Connect to the cluster, unless this process is connected already.

        Args:
            config: passed to every worker.
            n_workers: number of workers, as far as the cluster has room.
            address: of a running cluster. Default: that in `RAY_ADDRESS`, or else a new cluster of this
                machine, which ends with the executor.

        Raises:
            OptionError: Ray is not installed, the cluster is unreachable, or has no room for a worker.
        """
        if find_spec("ray") is None:
            raise OptionError(missing_extra("the engine ray", "ray"))
        import ray

        self._n_workers = n_workers
        self._about: dict[str, Any] | None = None
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, int]] = {}
        self._connected_here = not ray.is_initialized()
        if self._connected_here:
            _connect(address or os.environ.get("RAY_ADDRESS", LOCAL), n_workers * config.options.threads)
        try:
            n_cpus, n_gpus = _resources(config)
        except BaseException:
            self.close()
            raise
        self._config = ray.put(config)
        self._actor_class: Any = ray.remote(StudyWorker).options(num_cpus=n_cpus, num_gpus=n_gpus)

    def about(self) -> dict[str, Any]:
        """Return a worker's description of its model; from then on, workers that differ are refused."""
        self._about = super().about()
        return self._about

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        import ray

        if ray.is_initialized():
            busy = (actor for actor, _ in self._busy.values())
            for actor in (*self._idle, *self._starting.values(), *busy):
                ray.kill(actor)
        if self._connected_here:
            ray.shutdown()

    def _each(self, calls: Sequence[WorkerCall]) -> Iterator[tuple[int, Any]]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        for actor, _ in self._busy.values():  # left by an iteration that ended early
            ray.kill(actor)
        self._busy.clear()
        left = deque(range(len(calls)))
        deaths: Counter[int | None] = Counter()
        try:
            while left or self._busy:
                self._submit(calls, left)
                (done, *_), _ = ray.wait([*self._busy, *self._starting])
                actor, number = self._busy.pop(done, None) or (self._starting.pop(done), None)
                try:
                    result = ray.get(done)
                except RayTaskError:  # a bug in a worker
                    raise
                except RayError as error:
                    ray.kill(actor)
                    deaths[number] += 1
                    _refuse_repeated(error, deaths[number])
                    if number is not None:
                        left.append(number)
                    continue
                del deaths[number]
                self._idle.append(actor)
                if isinstance(result, MnemoscopeError):
                    raise result
                if number is not None:
                    yield number, result
        except RayTaskError:
            raise
        except RayError as error:
            raise WorkerError(
                f"the Ray cluster is lost ({one_line(error)}); run the same command again to go on"
            ) from error

    def _submit(self, calls: Sequence[WorkerCall], left: deque[int]) -> None:
        """Start the actors that are missing, and give each idle one a call."""
        for _ in range(len(self._idle) + len(self._starting) + len(self._busy), self._n_workers):
            actor = self._actor_class.remote(self._config)
            self._starting[actor.start.remote()] = actor
        while left and self._idle:
            actor, number = self._idle.pop(), left.popleft()
            self._busy[actor.call.remote(calls[number], self._about)] = actor, number


class StudyWorker:
    """Ray actor with one worker, whose model is opened by the first call."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._worker: Worker | None = None
        self._found: dict[str, Any] = {}

    def start(self) -> None:
        """Do nothing; the reference that Ray returns is ready once the actor has started."""

    def call(self, call: WorkerCall, about: dict[str, Any] | None) -> Any:
        """Return the result of a call with the worker, or the MnemoscopeError that it raised."""
        try:
            if self._worker is None:
                self._worker = self._open()
                self._found = self._worker.about()
            if about is not None:
                _refuse_difference(_flat(self._found), _flat(about))
            return call(self._worker)
        except MnemoscopeError as error:
            return error

    def _open(self) -> Worker:
        try:
            return Worker(self._config)
        except MnemoscopeError as error:
            raise type(error)(f"on the machine {_machine()}: {error}") from error


def _refuse_repeated(error: Exception, n_deaths: int) -> None:
    if getattr(error, "actor_init_failed", False):
        raise WorkerError(
            f"a worker cannot start on the Ray cluster ({one_line(error)}); install the same packages on all "
            "machines"
        ) from error
    if n_deaths == MOST_DEATHS:
        raise WorkerError(
            f"workers were killed {n_deaths} times over the same task, most likely for want of "
            "memory; run the same command again with fewer --workers, or on machines with more memory"
        ) from error


def _machine() -> str:
    from ray.util import get_node_ip_address

    return get_node_ip_address()


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    return {**about, **about["versions"], "versions": None}


def _refuse_difference(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse another model or other packages, which would give other bytes."""
    for name, value in wanted.items():
        if found.get(name) != value:
            raise WorkerError(
                f"on the machine {_machine()} {name} is {found.get(name)} and elsewhere {value}, which gives "
                "other results; install the same packages and the same model on all machines"
            )


def _connect(address: str, n_cpus: int) -> None:
    import ray

    # A new cluster may have fewer cores than the workers are to share.
    options = {"num_cpus": n_cpus, "include_dashboard": False} if address == LOCAL else {}
    # Ray's default niceness, 15, starves workers on a busy machine.
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_worker_niceness": "0"}
    try:
        _refuse_unreachable(address)
        with _environment(quiet):
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise OptionError(
            f"cannot use the Ray cluster at {address} ({one_line(error)}); check the address with "
            "`ray status --address`, and that Ray is of the same version there"
        ) from error


def _refuse_unreachable(address: str) -> None:
    """Raise OSError if no process listens at the address; Ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _resources(config: WorkerConfig) -> tuple[int, int]:
    """Return the CPUs and GPUs of a worker: its threads, and one GPU if model and cluster use any.

    Raises:
        OptionError: no machine has so many.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpu = any(machine.get("GPU") for machine in machines)
    n_cpus, n_gpus = config.options.threads, int(has_gpu and config.model.device not in (None, "cpu"))
    if not any(machine.get("CPU", 0) >= n_cpus and machine.get("GPU", 0) >= n_gpus for machine in machines):
        raise OptionError(
            f"a worker takes {n_cpus} CPUs and {n_gpus} GPUs, and no machine of the Ray cluster has so many; "
            "give fewer --threads, or add a machine"
        )
    return n_cpus, n_gpus
