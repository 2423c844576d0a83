"""Memory above the weights does not grow with the number of layers: they are read one at a time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MEGABYTE = 2**20
# What all layers' columns take in float32, if they were kept: far more than the two peaks may differ by.
N_FEW, N_MANY, D_MODEL, D_FF = 2, 12, 512, 4096
ALLOWED = 40 * MEGABYTE
CHILD = f"""
import gc, sys, threading, psutil, torch
from transformers import LlamaConfig, LlamaForCausalLM
import mnemoscope as ms
from mnemoscope.testing import word_tokenizer, words
def peak(n_layers):
    config = LlamaConfig(vocab_size=3000, hidden_size={D_MODEL}, intermediate_size={D_FF},
        num_attention_heads=8, num_hidden_layers=n_layers, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    process, sizes, done = psutil.Process(), [], threading.Event()
    base = process.memory_info().rss
    def look():
        while not done.wait(0.002):
            sizes.append(process.memory_info().rss - base)
    watcher = threading.Thread(target=look)
    watcher.start()
    opened = ms.load((model, word_tokenizer(3000)))
    opened.attribute(words(5, 17, 80), 40, top=20, memory_budget=20 * 2**20)
    done.set()
    watcher.join()
    return max(sizes)
peak(1)  # what the first call imports and compiles is no model's memory
for n_layers in sys.argv[1:]:
    gc.collect()
    print(peak(int(n_layers)))
"""


@pytest.mark.process
def test_memory_does_not_grow_with_the_number_of_layers() -> None:
    few, many = peaks(N_FEW, N_MANY)
    columns = 4 * (N_MANY - N_FEW) * (D_FF + D_MODEL) * D_MODEL
    assert columns > 2 * ALLOWED
    assert many - few < ALLOWED


def peaks(*n_layers: int) -> list[int]:
    """Peaks of opening and attributing models in a child process, in bytes above the weights."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, n_layers)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        # Or else glibc keeps for later what is freed, in holes between what is not.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
    )
    return [int(line) for line in done.stdout.split()]
