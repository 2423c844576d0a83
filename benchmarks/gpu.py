"""What an attribution costs on a GPU, as a ratio to a plain forward pass of the same prompt in the same run.

    python benchmarks/gpu.py                                # the demo model
    python benchmarks/gpu.py meta-llama/Llama-3.1-8B        # any model that `mnemoscope.load` opens
    python benchmarks/gpu.py MODEL --dtype float32 --device cuda:1

Forward passes and attributions take turns and are waited for; medians are compared. Launches are kernels and
copies that one call starts; the more of a call's time they take to start, the less the GPU's speed counts.
Memory is the peak above what was allocated before the call. `--device cpu` shows times alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import mnemoscope as ms
from measuring import medians, write

PROMPT = "In Japan, the capital is the city of"
TARGET = " Tokyo"
MEGABYTE = 2**20


def launches(call: Callable[[], object]) -> int:
    """Kernels and copies that a call starts on the GPU."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    return sum(event.count for event in seen.key_averages() if event.self_device_time_total > 0)


def peak_megabytes(call: Callable[[], object], device: torch.device) -> float:
    """The most memory allocated on the GPU during a call, above that before it."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return (torch.cuda.max_memory_allocated(device) - before) / MEGABYTE


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    model = ms.load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    hf, tokens = model.language_model.model, torch.tensor([model.predict(PROMPT).token_ids], device=device)

    def waited(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            call()
            if on_gpu:
                torch.cuda.synchronize()

        return run

    def forward() -> None:
        with torch.no_grad():
            hf(input_ids=tokens)

    def attribution(**options: Any) -> Callable[[], None]:
        return waited(lambda: model.attribute(PROMPT, TARGET, **options))

    calls: dict[str, Callable[[], object]] = {
        "plain forward pass": waited(forward),
        "values only": attribution(suppressing=False, effects=False, query=False),
        "and suppressing parts": attribution(effects=False, query=False),
        "and total effects": attribution(query=False),
        "and query neurons (default)": attribution(),
    }
    named = torch.cuda.get_device_name(device) if on_gpu else device.type
    write(f"{model!r}; {arguments.dtype}, {tokens.shape[1]} tokens, {named}, torch {torch.__version__}")
    medians(calls, 2)
    times = medians(calls, arguments.repeats)
    for name, value in times.items():
        line = f"{name:30} {1e3 * value:9.2f} ms {value / times['plain forward pass']:8.1f} x"
        if on_gpu:
            line += (
                f" {launches(calls[name]):8d} launches {peak_megabytes(calls[name], device):8.0f} MB above"
            )
        write(line)


if __name__ == "__main__":
    main()
