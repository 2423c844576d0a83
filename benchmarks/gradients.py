"""What gradient methods cost, as a ratio to a plain forward pass of the same prompt in the same run.

python benchmarks/gradients.py            # half a minute
"""

from __future__ import annotations

from functools import partial

import torch

import mnemoscope as ms
from measuring import medians, write
from mnemoscope.model.gradients import site_gradients

PROMPT = "In Japan, the capital is the city of"
TOKEN, OTHER = 20, 21
REPEATS = 15


def main() -> None:
    """Measure and report."""
    model = ms.load("demo")
    language_model, prompt = model.language_model, model.predict(PROMPT).token_ids
    tokens = torch.tensor([prompt])

    def forward() -> None:
        with torch.no_grad():
            language_model.model(input_ids=tokens)

    gradients = partial(
        site_gradients, language_model, [prompt], lambda logits: logits[:, TOKEN] - logits[:, OTHER]
    )
    found = medians(
        {"plain forward pass": forward, "gradients": gradients, "RelP": partial(gradients, linearised=True)},
        REPEATS,
    )
    write(f"{tokens.shape[1]} tokens, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, seconds in found.items():
        write(f"{name:>20}: {1000 * seconds:6.0f} ms, {seconds / found['plain forward pass']:.2f} passes")


if __name__ == "__main__":
    main()
