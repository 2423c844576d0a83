"""A process that writes a store of fixed shards, and dies where it is told to, for the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forks import FORKS
from mnemoscope.errors import OutputError
from mnemoscope.study.store import Store, encoded

TABLE = "outcomes"
MANIFEST = {"model": "demo", "options": {"rank": 10}, "facts": ["a", "b"]}
N_SHARDS = 48


def shard(number: int) -> pd.DataFrame:
    """Rows that do not compress, the same in every process."""
    generator = np.random.default_rng(number)
    n_rows = 4_000 + number
    return pd.DataFrame(
        {
            "neuron": np.arange(n_rows),
            "score": generator.standard_normal(n_rows).astype("float32"),
            "token": np.where(generator.random(n_rows) < 0.5, " Tokyo", " Köln"),
        }
    )


def _write(folder: Path, told: Connection, kill: tuple[str, str, int, str] | None) -> None:
    """Write the shards that are missing, and tell each; an error is told and raised."""
    if kill is not None:
        _kill_around(*kill)
    try:
        with Store.open(folder, MANIFEST) as store:
            done = store.done(TABLE)
            for number in range(N_SHARDS):
                key = f"fact-{number:03}"
                if key not in done:
                    store.write(TABLE, key, encoded(shard(number)))
                    told.send(key)
    except OutputError as error:
        told.send(str(error))
        raise SystemExit(1) from None


def _kill_around(owner: str, call: str, nth: int, moment: str) -> None:
    """Let this process be killed before or after the nth call of a function."""
    holder: Any = {"os": os, "pathlib.Path": Path}[owner]
    usual, calls = getattr(holder, call), []

    def killing(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == nth and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = usual(*args, **options)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, call, killing)


@contextmanager
def writer(
    folder: Path, kill: tuple[str, str, int, str] | None = None
) -> Iterator[tuple[BaseProcess, Connection]]:
    """The process, and where it tells the keys that it has written."""
    here, there = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_write, args=(folder, there, kill))
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        here.close()


def rest_of(told: Connection) -> list[str]:
    """All that the process still tells until it ends."""
    keys = []
    try:
        while True:
            keys.append(told.recv())
    except EOFError:
        return keys
