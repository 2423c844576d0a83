"""Ray writes the same files as one process, survives the loss of a worker, and leaves nothing behind."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from mnemoscope.errors import OptionError, UnknownModelError, WorkerError
from mnemoscope.study.executors.ray import RayExecutor
from studies import driver, kill, killing_workers, left_after, tables, worker_config, workers_of

pytestmark = pytest.mark.ray
SECONDS = 300  # that nothing here takes


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster that this process is connected to, as a user's may be."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


def test_a_study_on_ray_survives_its_driver_and_then_a_worker(
    model: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    folder = tmp_path / "study"
    with driver(model, folder, 2, True) as process:
        assert process.pid is not None
        # They are looked for before there is a file: looking takes long, and the study would go on meanwhile.
        workers = _two_workers_of(process.pid)
        _wait(folder, "outcomes/measure-*")
        process.kill()
        assert left_after(workers, 60) == []
    left = tables(folder)
    assert {name: left[name] for name in left if name.endswith(".parquet")}.items() < unbroken.items()

    n_done = len(list(folder.glob("tables/outcomes/measure-*")))
    with driver(model, folder, 2, True) as process:
        assert process.pid is not None
        victims = _two_workers_of(process.pid)
        _wait(folder, "outcomes/measure-*", n_done + 1)
        kill(victims[0].pid)
        assert left_after(victims[:1], 10) == []
        assert not list(folder.glob("tables/readings/*"))  # it was in the middle
        process.join(SECONDS)
        assert process.exitcode == 0
    assert tables(folder) == unbroken


def _wait(folder: Path, pattern: str, n_files: int = 1) -> None:
    end = time.monotonic() + SECONDS
    while len(list(folder.glob(f"tables/{pattern}"))) < n_files:
        assert time.monotonic() < end
        time.sleep(0.01)


def _two_workers_of(process: int) -> list[psutil.Process]:
    end = time.monotonic() + SECONDS
    while len(workers := workers_of(process)) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    return workers


@pytest.mark.usefixtures("cluster")
def test_an_error_of_a_worker_names_its_machine(tmp_path: Path) -> None:
    with (
        RayExecutor(worker_config(tmp_path / "missing"), 1) as workers,
        pytest.raises(UnknownModelError, match=r"^on the machine \d+\.\d+\.\d+\.\d+: .*missing"),
    ):
        workers.about()
    assert ray.is_initialized()  # it was not started here


@pytest.mark.usefixtures("cluster")
def test_a_worker_with_other_packages_is_refused(model: Path) -> None:
    with RayExecutor(worker_config(model), 1) as workers:
        workers.about()["versions"]["torch"] = "0.1"
        with pytest.raises(WorkerError, match=r"torch is .* and elsewhere 0\.1, .* install the same"):
            workers.about()


@pytest.mark.usefixtures("cluster")
def test_workers_that_die_again_and_again_are_given_up(model: Path) -> None:
    with (
        RayExecutor(worker_config(model), 1) as workers,
        killing_workers(0.1),
        pytest.raises(WorkerError, match=r"killed 3 times .* --workers"),
    ):
        workers.about()


@pytest.mark.usefixtures("cluster")
def test_refuses_workers_that_no_machine_has_room_for(model: Path) -> None:
    setup = worker_config(model, threads=1000)
    with pytest.raises(OptionError, match=r"1000 CPUs .* fewer --threads"):
        RayExecutor(setup, 1)


def test_refuses_a_cluster_that_is_not_there(model: Path) -> None:
    ray.shutdown()
    with pytest.raises(OptionError, match=r"127\.0\.0\.1:1 .*refused.* check the address"):
        RayExecutor(worker_config(model), 1, "127.0.0.1:1")
    assert not ray.is_initialized()


def test_tells_how_to_install_ray(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnemoscope.study.executors.ray.find_spec", lambda _: None)
    with pytest.raises(OptionError, match=r"pip install '\.\[ray\]'"):
        RayExecutor(worker_config(model), 1)
