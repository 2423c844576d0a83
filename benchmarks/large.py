"""Memory and time above those of the weights on a large model: random, of TinyLlama's sizes, in bfloat16.

    python benchmarks/large.py [N_TOKENS]

Memory is the largest resident size of the process during the call less that before the model was opened, with
its weights in memory.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import mnemoscope as ms
from measuring import seconds, write
from mnemoscope.model.estimate import MEMORY_BUDGET, estimate_from_sizes, sizes_of
from mnemoscope.testing import word_tokenizer, words

CONFIG = LlamaConfig(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
MEGABYTE = 2**20


def peak_above(base: int, call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, and the largest resident size above a base while it ran, in MB."""
    process, sizes, done = psutil.Process(), [0], threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            sizes.append(process.memory_info().rss - base)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        took = seconds(call)
    finally:
        done.set()
        watcher.join()
    return took, max(sizes) / MEGABYTE


def main() -> None:
    """Open, attribute, report."""
    n_tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    transformers_model = LlamaForCausalLM(CONFIG).eval()
    torch.set_default_dtype(torch.float32)
    told = estimate_from_sizes(sizes_of(CONFIG), n_tokens, dtype=torch.bfloat16, memory_budget=MEMORY_BUDGET)
    time.sleep(1)
    base = psutil.Process().memory_info().rss
    opened: list[ms.Model] = []
    source = (transformers_model, word_tokenizer(CONFIG.vocab_size))
    took, peak = peak_above(base, lambda: opened.append(ms.load(source)))
    model, ids = opened[0], list(range(5, 5 + n_tokens))
    tokens = torch.tensor([ids])
    with torch.no_grad():
        transformers_model(tokens)
        forward = min(seconds(lambda: transformers_model(tokens)) for _ in range(3))
    write(f"{told.sizes.n_parameters:,} parameters in {model.dtype}, a prompt of {n_tokens} tokens")
    write(f"{'forward pass':44}{forward:8.1f} s")
    write(f"{'opening, with validation':44}{took:8.1f} s{took / forward:8.1f}x{peak:8.0f} MB")
    call = partial(model.attribute, words(*ids), 40, top=100)
    for name in ("first attribution, which measures the weights", "attribution, top 100, everything"):
        took, peak = peak_above(base, call)
        write(f"{name:44}{took:8.1f} s{took / forward:8.1f}x{peak:8.0f} MB")
    write(f"estimated before: {told.working_bytes / MEGABYTE:.0f} MB")


if __name__ == "__main__":
    main()
