"""What an attribution costs, as a ratio to a plain forward pass of the same prompt in the same run.

    python benchmarks/attribute.py            # some two minutes
    python benchmarks/attribute.py --all      # also scores every neuron, some minutes more

Forward passes and attributions take turns, and the median of each is compared, because a machine is
faster at one moment than at another. Memory is the peak of the process above what it held after
loading and one forward pass (Linux only).
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import torch

import mnemoscope as ms
from measuring import medians, write
from mnemoscope.attribution.options import Neurons
from reference import time_reference

PROMPT = "In Japan, the capital is the city of"
TARGET = " Tokyo"
TOP = 100
REPEATS = 15
REFERENCE_SAMPLE = 48
MEGABYTE = 2**20
NEURONS: tuple[Neurons, ...] = ("bounds", "all")


def resident_bytes() -> int:
    """Resident memory of this process."""
    gc.collect()
    return psutil.Process().memory_info().rss


def peak_megabytes(call: Callable[[], object], baseline: int) -> float:
    """The most resident memory during a call above a baseline in bytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    call()
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return (int(peak.split()[1]) * 1024 - baseline) / MEGABYTE


def report_speed(model: ms.Model, forward: Callable[[], object]) -> float:
    """Ratios of attributions to the forward pass; returns the seconds of the latter."""
    calls = {
        "plain forward pass": forward,
        "layers, heads, top FFN and attention neurons": lambda: model.attribute(
            PROMPT, TARGET, top=TOP, suppressing=False, effects=False, query=False
        ),
        "the same and the suppressing ones": lambda: model.attribute(
            PROMPT, TARGET, top=TOP, effects=False, query=False
        ),
        "the same and total effects": lambda: model.attribute(PROMPT, TARGET, top=TOP, query=False),
        "the same and query neurons (default)": lambda: model.attribute(PROMPT, TARGET, top=TOP),
    }
    times = medians(calls, REPEATS)
    base = times["plain forward pass"]
    for name, value in times.items():
        write(f"{name:58} {1e3 * value:8.0f} ms {value / base:8.1f} x")
    return base


def report_evaluations(model: ms.Model) -> None:
    """How many parts were scored exactly to prove the lists."""
    for name, suppressing in (("highest only", False), ("highest and lowest", True)):
        result = model.attribute(PROMPT, TARGET, top=TOP, suppressing=suppressing)
        for table, cost in result.costs.items():
            label = f"{table}, {name}"
            write(f"{label:58} {cost.exact:8d} of {cost.parts:,} scored exactly")


def report_reference(model: ms.Model, base: float) -> None:
    """The authors' algorithm on a sample, extrapolated to all parts."""
    hf = model.language_model.model
    encoded = model.predict(PROMPT)
    target = model.attribute(PROMPT, TARGET, top=1, suppressing=False).target.id
    for batch in (1, 256):
        sample = REFERENCE_SAMPLE if batch == 1 else 512
        timings = time_reference(hf, encoded.token_ids, target, sample, batch)  # pyright: ignore[reportArgumentType]
        total = sum(timing.seconds_extrapolated for timing in timings.values())
        how = "one by one" if batch == 1 else f"{batch} at a time"
        label = f"the authors' algorithm, {how} ({sample} of each sampled)"
        write(f"{label:58} {1e3 * total:8.0f} ms {total / base:8.0f} x")


def report_all(model: ms.Model, base: float, baseline: int) -> None:
    """Every neuron scored, and every neuron bounded."""
    for neurons in NEURONS:
        results: list[ms.Attribution] = []

        def call(neurons: Neurons, results: list[ms.Attribution]) -> None:
            results.append(model.attribute(PROMPT, TARGET, neurons=neurons))

        start = time.perf_counter()
        peak = peak_megabytes(partial(call, neurons, results), baseline)
        took = time.perf_counter() - start
        label = f'neurons="{neurons}"'
        write(f"{label:58} {1e3 * took:8.0f} ms {took / base:8.0f} x {peak:8.0f} MB")
        lower, upper = results[0].sum_of_scores("ffn")
        write(f"{'  sum of all FFN scores lies in':58} [{lower:.2f}, {upper:.2f}] nats")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--all", action="store_true", help="also score every neuron")
    arguments = parser.parse_args()
    model = ms.load("demo")
    hf = model.language_model.model
    tokens = torch.tensor([model.predict(PROMPT).token_ids])

    def forward() -> None:
        with torch.no_grad():
            hf(input_ids=tokens)

    write(
        f"{model!r}; {tokens.shape[1]} tokens, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    forward()
    baseline = resident_bytes()
    peak = peak_megabytes(lambda: model.attribute(PROMPT, TARGET, top=TOP), baseline)
    write(f"{'peak memory above the weights, default':58} {peak:8.0f} MB")
    base = report_speed(model, forward)
    report_evaluations(model)
    report_reference(model, base)
    if arguments.all:
        report_all(model, base, baseline)


if __name__ == "__main__":
    main()
