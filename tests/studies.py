"""A study that takes seconds, of a tiny model in a folder, and the processes that run it, for the tests."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from forks import FORKS
from mnemoscope.cli import main
from mnemoscope.study import tasks as plan
from mnemoscope.study.executors.ray import RayExecutor
from mnemoscope.study.facts import Fact
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.runner import Source, run_study
from mnemoscope.study.store import TABLES
from mnemoscope.study.tasks import ModelSpec, WorkerConfig
from support import built, word_tokenizer

N_SUBJECTS, N_RELATIONS = 6, 3
# Of the first subjects there is a second wording.
N_FACTS = 8
# Every fact counts as known: a random model knows none.
OPTIONS = StudyOptions(
    rank=97,
    rivals=False,
    attention_neurons=20,
    ffn_neurons=10,
    method_neurons=3,
    query_values=5,
    query_neurons=20,
    shallow_query_neurons=20,
    controls=1,
    summed=2,
    read=2,
)
FACTS = tuple(
    Fact(
        line=number + 1,
        prompt=f"w{3 + number} w{40 + number % 5} w{50 + subject % N_RELATIONS}",
        target=f"w{60 + subject}",
        relation=f"relation {subject % N_RELATIONS}",
        subject=f"subject {subject}",
    )
    for number, subject in enumerate([*range(N_SUBJECTS), *range(N_FACTS - N_SUBJECTS)])
)
SOURCE = Source("facts.jsonl", FACTS)
# Facts of a task, so few that a study has a dozen tasks.
AT_ONCE = 2


def save_tiny(folder: Path) -> Path:
    """A tiny random model and its tokenizer as files."""
    model = built("llama")
    model.save_pretrained(folder)
    word_tokenizer(model.get_input_embeddings().weight.shape[0]).save_pretrained(folder)
    return folder


def save_facts(path: Path, facts: tuple[Fact, ...] = FACTS) -> Path:
    """The facts as a file."""
    names = ("prompt", "target", "relation", "subject")
    lines = [{name: getattr(fact, name) for name in names} for fact in facts]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def arguments(model: Path, facts: Path, out: Path) -> list[str]:
    """Arguments of the command line that ask for the study."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.to_json().items() if value]
    given.append("--no-rivals")
    return ["study", "run", f"--model={model}", f"--facts={facts}", f"--out={out}", *given]


def worker_config(model: Path, threads: int = 1) -> WorkerConfig:
    """What a worker of the study is given."""
    return WorkerConfig(ModelSpec(str(model)), FACTS, replace(OPTIONS, threads=threads))


def drive(model: Path, out: Path, n_workers: int = 1, on_ray: bool = False) -> None:
    """Run the study in small tasks, or go on with it."""
    for name in ("measure", "reword", "heads"):
        plan.WORK[name] = replace(plan.WORK[name], at_once=AT_ONCE)
    executor = RayExecutor if on_ray else None
    run_study(ModelSpec(str(model)), SOURCE, out, OPTIONS, workers=n_workers, executor=executor)


def run_command(arguments: list[str], longest: int | None = None) -> tuple[int | None, str]:
    """Run the command line in a process of its own, where no file can become longer; exit code and stderr."""
    here, there = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_command, args=(arguments, there, longest))
    process.start()
    there.close()
    told = here.recv()
    process.join()
    return process.exitcode, told


def _command(arguments: list[str], told: Connection, longest: int | None) -> None:
    if longest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest, longest))
    sys.argv = ["mnemoscope", *arguments]
    sys.stderr = io.StringIO()
    try:
        main()
    finally:
        told.send(sys.stderr.getvalue())


@contextmanager
def driver(*given: object) -> Iterator[BaseProcess]:
    """A process that runs `drive`; it is there no more at the end."""
    process = FORKS.Process(target=drive, args=given)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def tables(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below the study's tables."""
    top = folder / TABLES
    return {
        str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()
    }


def workers_of(process: int) -> list[psutil.Process]:
    """The processes that work for one: of a pool, or actors of Ray."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:  # it ended meanwhile
            continue
        # Ray names what an actor is doing; one that is only starting is not at work.
        if "spawn_main" in command or re.match(r"ray::StudyWorker(?!.*__init__)", command):
            found.append(child)
    return found


def kill(process: int) -> None:
    """SIGKILL, also where the process ended a moment ago."""
    try:
        psutil.Process(process).send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


@contextmanager
def killing_workers(every: float) -> Iterator[None]:
    """The workers of this process are killed whenever so many seconds have passed."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every):
            for worker in workers_of(os.getpid()):
                kill(worker.pid)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def left_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run when so much time has passed."""
    end = time.monotonic() + seconds
    while any(map(_runs, processes)) and time.monotonic() < end:
        time.sleep(0.05)
    return [process for process in processes if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
