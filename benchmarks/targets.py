"""What another target of a prompt costs, as a ratio to a plain forward pass of the prompt in the same run.

    python benchmarks/targets.py              # about a minute

The thirty likeliest next tokens of a prompt are attributed in turn: each by `Model.attribute`, which runs the
prompt anew, and by one `Model.run`, which was asked before. Direct effects and the neurons that raise the
target alone, as the web page asks first.
"""

from __future__ import annotations

from itertools import cycle

import torch

import mnemoscope as ms
from measuring import medians, write

PROMPT = "In Japan, the capital is the city of"
TOP = 50
TARGETS = 30


def main() -> None:
    """Measure and report."""
    model = ms.load("demo")
    hf = model.language_model.model
    run = model.run(PROMPT)
    prediction = run.predict(TARGETS)
    targets = {way: cycle(prediction.table["id"].tolist()) for way in ("anew", "again")}
    tokens = torch.tensor([prediction.token_ids])
    wanted = {"top": TOP, "effects": False, "suppressing": False, "query": False}

    def forward() -> None:
        with torch.no_grad():
            hf(input_ids=tokens)

    calls = {
        "plain forward pass": forward,
        "a target of a prompt that is run for it": lambda: model.attribute(
            PROMPT, next(targets["anew"]), **wanted
        ),
        "another target of a prompt that was run": lambda: run.attribute(next(targets["again"]), **wanted),
    }
    write(
        f"{model!r}; {tokens.shape[1]} tokens, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    medians(calls, 2)
    times = medians(calls, TARGETS)
    for name, value in times.items():
        write(f"{name:44} {1e3 * value:8.0f} ms {value / times['plain forward pass']:8.1f} x")


if __name__ == "__main__":
    main()
