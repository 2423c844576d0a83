"""What examples of neurons cost over 100,000 tokens, as a ratio to plain forward passes of the same windows.

python benchmarks/examples.py            # some minutes
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
from collections.abc import Iterator

import torch

import mnemoscope as ms
from measuring import seconds, write
from mnemoscope.model.activations import batches
from mnemoscope.model.corpus import cut_windows, open_corpus
from mnemoscope.model.estimate import MEMORY_BUDGET

WINDOW, TOP = 64, 10
# Both are measured in turns of so many texts, so that what else the machine does hits both.
TEXTS = 128


def texts(model: ms.Model, n_tokens: int) -> Iterator[str]:
    """Facts of the package, in a random order, strung together to texts of a window or a little more."""
    draw, facts, made = random.Random(0), ms.builtin_facts(), 0
    while made < n_tokens:
        text, length = "", 0
        while length < WINDOW:
            fact = draw.choice(facts)
            text += f"{fact.prompt} {fact.target}. "
            length = len(model.tokenizer(text).input_ids)
        yield text
        made += length


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--neurons", type=int, default=100)
    asked = parser.parse_args()
    model = ms.load("demo")
    structure, draw = model.language_model.structure, random.Random(1)
    places = draw.sample(range(model.n_layers * model.d_ff), asked.neurons)
    neurons = [ms.FFNNeuron(*divmod(place, model.d_ff)) for place in places]
    every = list(texts(model, asked.tokens))
    plain = scanned = 0.0
    n_tokens = n_windows = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MNEMOSCOPE_CACHE"] = folder
        for turn, start in enumerate(range(0, len(every), TEXTS)):
            some = every[start : start + TEXTS]
            windows = sorted(
                cut_windows(model.language_model, open_corpus(some), WINDOW),
                key=lambda window: len(window.ids),
            )
            ids = [window.ids for window in windows]
            n_tokens, n_windows = n_tokens + sum(map(len, ids)), n_windows + len(ids)

            def forward(ids: list[tuple[int, ...]] = ids) -> None:
                with torch.no_grad():
                    for batch in batches(ids, structure, MEMORY_BUDGET):
                        model.hf_model.base_model(torch.tensor([ids[i] for i in batch]), use_cache=False)

            def scan(some: list[str] = some) -> None:
                model.neuron_examples(neurons, some, top=TOP, window=WINDOW)

            for call in (forward, scan) if turn % 2 else (scan, forward):
                taken = seconds(call)
                plain, scanned = (plain + taken, scanned) if call is forward else (plain, scanned + taken)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    write(
        f"{len(neurons)} neurons, {n_tokens:,} tokens in {n_windows:,} windows, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}, {memory:,.0f} MB at most"
    )
    write(f"plain forward passes: {plain:6.1f} s, {n_tokens / plain:,.0f} tokens a second")
    write(f"examples:             {scanned:6.1f} s, {scanned / plain:.3f} times as long")


if __name__ == "__main__":
    main()
