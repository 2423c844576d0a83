"""What an attribution costs with a long prompt and with a large vocabulary, as a ratio to a forward pass.

    python benchmarks/shapes.py

The long prompt is of 100 tokens, with the demo model. The large vocabulary is of 262,144 tokens, in a random
model of the sizes of Gemma 3 270M. Forward passes and attributions take turns; medians are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import mnemoscope as ms
from measuring import medians, write
from mnemoscope.testing import word_tokenizer, words

N_TOKENS = 100
SENTENCE = "In Japan, the capital is the city of Tokyo. "
LARGE = AutoConfig.for_model(
    "gemma3_text",
    vocab_size=262144,
    hidden_size=640,
    intermediate_size=2048,
    num_hidden_layers=18,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=256,
    sliding_window=512,
)
REPEATS = 7


def report(title: str, model: ms.Model, prompt: str | list[int], target: str | int) -> None:
    """Write what attributions cost, by what they are asked for."""
    prediction = model.predict(prompt)
    tokens, hf = torch.tensor([prediction.token_ids]), model.language_model.model

    def forward() -> None:
        with torch.no_grad():
            hf(input_ids=tokens)

    calls: dict[str, Callable[[], object]] = {
        "plain forward pass": forward,
        "values only": lambda: model.attribute(prompt, target, suppressing=False, effects=False, query=False),
        "default": lambda: model.attribute(prompt, target),
    }
    for call in calls.values():
        call()
    times = medians(calls, REPEATS)
    base = times["plain forward pass"]
    write(f"{title}: {tokens.shape[1]} tokens")
    for name, value in times.items():
        write(f"  {name:30} {1e3 * value:8.0f} ms {value / base:8.1f} x")


def main() -> None:
    """Measure and report."""
    demo = ms.load("demo")
    ids = list(demo.predict(SENTENCE * N_TOKENS).token_ids)
    report("demo model", demo, ids[:N_TOKENS], " Tokyo")
    torch.manual_seed(0)
    large = ms.load((AutoModelForCausalLM.from_config(LARGE).eval(), word_tokenizer(LARGE.vocab_size)))
    report("262,144 tokens in the vocabulary", large, words(*range(5, 13)), 40)


if __name__ == "__main__":
    main()
