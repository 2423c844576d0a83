"""Whatever is killed, and whoever works, a study ends with the same files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from command_line import COMMAND
from mnemoscope.errors import UnknownModelError, WorkerError
from mnemoscope.study.executors import ProcessExecutor
from studies import (
    arguments,
    driver,
    kill,
    killing_workers,
    left_after,
    save_facts,
    tables,
    worker_config,
    workers_of,
)

pytestmark = pytest.mark.process
SECONDS = 120  # that nothing here takes


def test_two_workers_write_what_one_writes(model: Path, tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    with driver(model, tmp_path / "study", 2) as process:
        process.join(SECONDS)
    assert process.exitcode == 0
    assert tables(tmp_path / "study") == unbroken


# On each push the driver is killed once and a worker once.
SEEDS = [pytest.param(seed, marks=[] if seed in (0, 4) else pytest.mark.nightly) for seed in range(20)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_kill_at_a_random_moment_loses_nothing(
    model: Path, tmp_path: Path, unbroken: dict[str, bytes], seed: int
) -> None:
    victims = ["worker" if seed % 5 == 4 else "driver"]
    generator = random.Random(seed)
    while not _drive(model, tmp_path / "study", generator, victims):
        # What is there at any moment is right, and nothing else is there.
        _check_part(tmp_path / "study", unbroken)
    assert not victims
    assert tables(tmp_path / "study") == unbroken


def _drive(model: Path, folder: Path, generator: random.Random, victims: list[str]) -> bool:
    """Go on with the study while what takes part in it is killed; whether it came to its end."""
    n_workers = 2 if victims and victims[0] == "worker" else 1
    with driver(model, folder, n_workers) as process:
        while victims and (n_workers == 2 or victims[0] == "driver"):
            if not _at_random(process, folder, generator):
                break
            assert process.pid is not None
            # Looking for workers takes longer than writing the files of a piece, where kills are to come.
            workers = workers_of(process.pid) if n_workers == 2 else []
            if victims[0] == "driver":
                process.kill()
                process.join()
                # A worker that is only starting sees it when it has imported what it needs.
                assert left_after(workers, SECONDS) == []
                break
            if workers:
                kill(generator.choice(workers).pid)
                del victims[0]
        process.join(SECONDS)
    if process.exitcode == -signal.SIGKILL:
        del victims[0]
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def _at_random(process: BaseProcess, folder: Path, generator: random.Random) -> bool:
    """Wait until more files are there, so often amid those of a piece; whether the process still runs."""
    wanted = len(tables(folder)) + generator.randrange(12)
    while process.is_alive() and len(list(folder.rglob("*.parquet"))) < wanted:
        time.sleep(0.002)
    process.join(generator.choice((0, generator.uniform(0, 0.1))))
    return process.is_alive()


def _check_part(folder: Path, unbroken: dict[str, bytes]) -> None:
    found = {name: content for name, content in tables(folder).items() if name.endswith(".parquet")}
    assert found.items() <= unbroken.items()


def test_an_error_of_a_worker_is_told_as_it_was(tmp_path: Path) -> None:
    with ProcessExecutor(worker_config(tmp_path / "missing"), 1) as workers, pytest.raises(UnknownModelError):
        workers.about()


def test_workers_that_die_again_and_again_are_given_up(model: Path) -> None:
    with (
        ProcessExecutor(worker_config(model), 1) as workers,
        killing_workers(0.05),
        pytest.raises(WorkerError, match=r"killed 3 times .* --workers"),
    ):
        workers.about()


def test_an_interrupt_ends_everything_at_once(model: Path, tmp_path: Path) -> None:
    facts = save_facts(tmp_path / "facts.jsonl")
    command = [*COMMAND, *arguments(model, facts, tmp_path / "study"), "--workers=2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not workers_of(process.pid):
            time.sleep(0.01)
        time.sleep(0.1)  # they import what they need, and would tell of an interrupt with a traceback
        everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert left_after(everybody, 10) == []
        told = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in told
