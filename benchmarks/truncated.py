"""Measure how near sums over the likeliest tokens alone come to the scores of heads.

usage: python benchmarks/truncated.py

For each number of tokens: how many heads have bounds within 1e-4 nats without a product with the whole
vocabulary, and the probability that is left to the other tokens in some layers. Rounding is left out.
"""

from dataclasses import replace

import torch

import mnemoscope as ms
from mnemoscope.attribution.bounds import bounder

PROMPT, TARGET = "The capital of Japan is the city of", " Tokyo"
LAYERS = (0, 5, 9, 10, 15, 20, 25, 29)
WIDEST = 1e-4  # nats


def main() -> None:
    """Print a line for each number of tokens."""
    prediction = ms.load("demo").method_input(PROMPT, TARGET).prediction
    heads = prediction.shared.heads
    for n_tokens in (1024, 4096, 8192, 16384):
        tail = prediction.shared.tail(n_tokens)
        bounds = bounder(
            prediction.focus, prediction.predicted, lambda tail=tail: tail, prediction.geometry, 2**28
        )
        no_rounding = replace(
            bounds.rounding, longest=torch.zeros(()), states=torch.zeros_like(bounds.rounding.states)
        )
        lower, upper = replace(bounds, rounding=no_rounding).chosen(heads, torch.arange(heads.size))
        n_near = int((upper - lower < WIDEST).sum())
        left = tail.log_mass.exp()[prediction.shared.base.attention]
        shares = ", ".join(f"{layer}: {left[layer]:.1e}" for layer in LAYERS)
        print(f"{n_tokens:6,} tokens: {n_near} of {heads.size} heads; left in layer {shares}")


if __name__ == "__main__":
    main()
