"""The machines of a Ray cluster do the pieces of a study."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from mnemoscope.errors import MnemoscopeError, OptionError, WorkerError, missing_extra
from mnemoscope.study.executors import MOST_DEATHS, Executor
from mnemoscope.study.tasks import Worker, WorkerConfig

if TYPE_CHECKING:
    from ray.data import Dataset


# Ray's word for a cluster of this machine alone, made for this process.
LOCAL = "local"
CALL, RESULT = "call", "result"


class RayExecutor(Executor):
    """Actors of Ray Data, each with a model of its own; Ray replaces one that dies and does its piece again.

    They write nothing: what they make comes back to this process. Each phase of a study has a pool of actors
    of its own, so a model is opened once a worker and phase.
    """

    def __init__(self, setup: WorkerConfig, n_workers: int, address: str | None = None) -> None:
        """Connect, where this process is not connected already.

        Args:
            setup: for every worker.
            n_workers: how many at once, as far as the cluster has room for them.
            address: of a running cluster; None for that in `RAY_ADDRESS`, or else for one of this machine,
                which ends with this engine.

        Raises:
            OptionError: Ray is not installed, the cluster is not reached, or no machine of it has room for a
                worker.
        """
        if find_spec("ray") is None:
            raise OptionError(missing_extra("the engine ray", "ray"))
        import ray

        self._setup, self._n_workers = setup, n_workers
        self._about: dict[str, Any] | None = None
        self._connected_here = not ray.is_initialized()
        if self._connected_here:
            _connect(address or os.environ.get("RAY_ADDRESS", LOCAL), n_workers * setup.options.threads)
        try:
            self._n_cpus, self._n_gpus = _needed(setup)
            self._starts = (
                ray.remote(_Starts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
            )
        except BaseException:
            self.close()
            raise

    def about(self) -> dict[str, Any]:
        """What a worker says of its model; others that say something else are refused from now on."""
        self._about = super().about()
        return self._about

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        import ray

        if self._connected_here:
            ray.shutdown()

    def _each(
        self, method: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        from ray import data
        from ray.exceptions import RayError, RayTaskError

        if not calls:
            return
        rows = [{CALL: pickle.dumps((number, method, arguments))} for number, arguments in enumerate(calls)]
        # One block for each: what a block makes comes back together, and is lost together.
        results = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(self._setup, self._about, self._starts),
            compute=data.ActorPoolStrategy(
                size=min(self._n_workers, len(rows)),
                max_tasks_in_flight_per_actor=2,  # so that none waits for this process
            ),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=self._n_cpus,
            num_gpus=self._n_gpus,
        )
        results.context.enable_progress_bars = False
        try:
            for table in _tables(results):
                number, result = pickle.loads(table[RESULT][0].as_py())
                if isinstance(result, MnemoscopeError):
                    raise result
                yield number, result
        except RayTaskError:  # a bug of ours in a worker
            raise
        except RayError as error:
            raise WorkerError(
                f"the Ray cluster is lost ({_line(error)}); run the same command again, "
                "which goes on where it was"
            ) from error


def _tables(results: Dataset) -> Iterator[pa.Table]:
    """The result of each call, as soon as it is there."""
    tables = results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    return cast("Iterator[pa.Table]", iter(tables))


class _Starts:
    """In a process of the cluster that outlives workers: how often each call was begun."""

    def __init__(self) -> None:
        self._number: Counter[bytes] = Counter()

    def count(self, call: bytes) -> int:
        """One more."""
        self._number[call] += 1
        return self._number[call]


class _Actor:
    """In a process of the cluster: a worker, opened with its first call, where an error can be told."""

    def __init__(self, setup: WorkerConfig, about: dict[str, Any] | None, starts: Any) -> None:
        self._setup, self._about, self._starts = setup, about, starts
        self._worker: Worker | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The pickled result of one pickled call; errors of ours are results, others are Ray's to tell."""
        call = batch[CALL][0].as_py()
        number, method, arguments = pickle.loads(call)
        try:
            self._refuse_a_deadly(call)
            if self._worker is None:
                self._worker = self._opened()
            result = method(self._worker, *arguments)
        except MnemoscopeError as error:
            result = error
        return pa.table({RESULT: [pickle.dumps((number, result))]})

    def _refuse_a_deadly(self, call: bytes) -> None:
        """Ray would begin a call for ever that kills whoever does it."""
        import ray

        n_starts: Any = ray.get(self._starts.count.remote(call))
        if n_starts > MOST_DEATHS:
            raise WorkerError(
                f"workers were killed {MOST_DEATHS} times over the same piece, most likely for want of "
                "memory; run the same command again with fewer --workers, or on machines with more memory"
            )

    def _opened(self) -> Worker:
        from ray.util import get_node_ip_address

        machine = get_node_ip_address()
        try:
            worker = Worker(self._setup)
        except MnemoscopeError as error:
            raise type(error)(f"on the machine {machine}: {error}") from error
        if self._about is not None:
            _refuse_difference(machine, _flat(worker.about()), _flat(self._about))
        return worker


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    return {**about, **about["versions"], "versions": None}


def _refuse_difference(machine: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Another model or other packages would give other bytes."""
    for name, value in wanted.items():
        if found.get(name) != value:
            raise WorkerError(
                f"on the machine {machine} {name} is {found.get(name)} and elsewhere {value}, which gives "
                "other results; install the same packages and the same model on all machines"
            )


def _connect(address: str, n_cpus: int) -> None:
    import ray

    # A cluster started here need not have as many cores as the workers are to share.
    options = {"num_cpus": n_cpus, "include_dashboard": False} if address == LOCAL else {}
    try:
        _refuse_unreachable(address)
        with _environment(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal"):
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise OptionError(
            f"cannot use the Ray cluster at {address} ({_line(error)}); check the address with "
            "`ray status --address`, and that Ray is of the same version there"
        ) from error
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _refuse_unreachable(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        OSError: nobody listens there.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """What processes that are started meanwhile inherit."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _needed(setup: WorkerConfig) -> tuple[int, int]:
    """CPUs and GPUs that a worker takes: its threads, and one GPU if the model is for one and there are any.

    Raises:
        OptionError: no machine has so much.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpu = any(machine.get("GPU") for machine in machines)
    n_cpus, n_gpus = setup.options.threads, int(has_gpu and setup.model.device not in (None, "cpu"))
    if not any(machine.get("CPU", 0) >= n_cpus and machine.get("GPU", 0) >= n_gpus for machine in machines):
        raise OptionError(
            f"a worker takes {n_cpus} CPUs and {n_gpus} GPUs, and no machine of the Ray cluster has so many; "
            "give fewer --threads, or add a machine"
        )
    return n_cpus, n_gpus
