"""What many clients at once do to `mnemoscope serve`: answers by status, waiting times, memory.

    python benchmarks/serve.py --clients 50 --seconds 60

Every client has an id of its own and asks one thing after the other, prompts that nobody asked before: what
comes next, what raises it, what a head looks at, and an ablation. Told to come again it waits for a second,
not for as long as it is told, which is harder on the server. Another client opens the page meanwhile. The
server is a process of its own; its memory is its resident set.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from measuring import write

CITIES = ("Japan", "France", "Italy", "Egypt", "Peru", "Kenya", "Norway", "Chile", "Greece", "Cuba")
WARM_UP = 0.25  # share of the time after which memory is compared with the end


@dataclass
class Seen:
    """What came of it."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=dict)
    memory: list[tuple[float, float]] = field(default_factory=list)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    seen = Seen()
    with _server(options.model) as (address, process):
        asyncio.run(_load(address, process, options.clients, options.seconds, seen))
    _report(seen, options.seconds)
    sys.exit(bool(seen.faults))


@contextmanager
def _server(model: str) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "mnemoscope", "serve", "--model", model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if "Mnemoscope is at" in line)
        yield re.findall(r"http://[^/]+/", told)[0], psutil.Process(process.pid)
        process.send_signal(signal.SIGINT)


async def _load(address: str, process: psutil.Process, n_clients: int, seconds: float, seen: Seen) -> None:
    start = time.perf_counter()
    end = start + seconds
    limits = httpx.Limits(max_connections=n_clients + 1)
    async with httpx.AsyncClient(base_url=address, timeout=180, limits=limits) as http:
        work = [_client(http, number, end, seen) for number in range(n_clients)]
        await asyncio.gather(*work, _page(http, end, seen), _memory(process, start, end, seen))
        answer = await http.get("/")
        _check(answer.status_code == 200, seen, f"the page answers {answer.status_code} after the load")


async def _client(http: httpx.AsyncClient, number: int, end: float, seen: Seen) -> None:
    drawn = random.Random(number)
    headers = {"X-Mnemoscope-Client": f"client-{number}"}
    for turn in itertools.count():
        if time.perf_counter() >= end:
            return
        path, asked = _question(drawn, number * 100_000 + turn)
        start = time.perf_counter()
        answer = await http.post(f"api/{path}", json=asked, headers=headers)
        seen.statuses[path, answer.status_code] += 1
        if answer.status_code == 200:
            seen.waits.setdefault(path, []).append(time.perf_counter() - start)
        else:
            may_come_again = answer.status_code in (429, 503) and "retry-after" in answer.headers
            _check(may_come_again, seen, f"{path} {answer.status_code}: {answer.text[:200]}")
            await asyncio.sleep(1)


def _question(drawn: random.Random, number: int) -> tuple[str, dict[str, Any]]:
    prompt = f"{number}. The capital of {drawn.choice(CITIES)} is the city of"
    head = {"layer": 1, "head": 1}
    return drawn.choice(
        [
            ("predict", {"prompt": prompt}),
            (
                "attribute",
                {"prompt": prompt, "top": drawn.choice([10, 30, 100]), "query": drawn.random() < 0.5},
            ),
            ("head", {"prompt": prompt, **head}),
            ("ablate", {"prompt": prompt, "parts": [{"part": "Head", **head}], "seeds": 1}),
        ]
    )


async def _page(http: httpx.AsyncClient, end: float, seen: Seen) -> None:
    while time.perf_counter() < end:
        start = time.perf_counter()
        answer = await http.get("/")
        seen.statuses["page", answer.status_code] += 1
        seen.waits.setdefault("page", []).append(time.perf_counter() - start)
        _check(answer.status_code == 200, seen, f"the page answers {answer.status_code}")
        await asyncio.sleep(0.5)


async def _memory(process: psutil.Process, start: float, end: float, seen: Seen) -> None:
    while time.perf_counter() < end:
        seen.memory.append((time.perf_counter() - start, process.memory_info().rss / 2**20))
        await asyncio.sleep(0.5)


def _check(holds: bool, seen: Seen, otherwise: str) -> None:
    if not holds:
        seen.faults.append(otherwise)


def _report(seen: Seen, seconds: float) -> None:
    for (path, status), count in sorted(seen.statuses.items()):
        write(f"{path:10} {status}  {count:6,}")
    for path, waits in sorted(seen.waits.items()):
        slowest = max(waits)
        write(
            f"{path:10} answered after {statistics.median(waits):.2f} s (median), {slowest:.2f} s (longest)"
        )
    early, late = (
        [size for at, size in seen.memory if since * seconds <= at < until * seconds]
        for since, until in ((WARM_UP, 2 * WARM_UP), (1 - WARM_UP, 1))
    )
    before, after = statistics.median(early), statistics.median(late)
    write(
        f"memory {seen.memory[0][1]:,.0f} MB at the start; median {before:,.0f} MB in the second quarter and "
        f"{after:,.0f} MB in the last ({after - before:+,.0f} MB)"
    )
    for fault in seen.faults[:10]:
        write(f"FAULT {fault}")


if __name__ == "__main__":
    main()
