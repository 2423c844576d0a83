"""What query scores cost, as a ratio to a plain forward pass of the same prompt in the same run.

    python benchmarks/query.py                # about a minute

Asks for the query scores of all layers, heads, attention neurons and FFN neurons for 30 attention and 30 FFN
value neurons. Beside it stands the way of the authors' notebooks: for value neuron after value neuron and
layer after layer, every FFN neuron's vector is made and multiplied with the key, timed on a few and
extrapolated.
"""

from __future__ import annotations

import torch

import mnemoscope as ms
from measuring import medians, seconds, write

PROMPT = "In Japan, the capital is the city of"
TARGET = " Tokyo"
VALUES = 30
REPEATS = 15
SAMPLE = 4


def notebook_seconds(model: ms.Model, result: ms.Attribution) -> float:
    """Time the notebooks' way for the value neurons of a result, from some of them."""
    structure = model.language_model.structure
    (activations,) = model.language_model.capture([result.token_ids])
    depths = [*result.attention_neurons["layer"].head(VALUES), *result.ffn_neurons["layer"].head(VALUES)]
    weights = [block.ffn_output.columns().T for block in structure.blocks]
    key = torch.randn(structure.d_model)

    def one(depth: int) -> None:
        for layer in range(depth):
            neurons = (activations.coefficients[layer] * weights[layer]).T
            torch.sum(neurons * key, -1)

    sample = sorted(depths)[:: len(depths) // SAMPLE]
    taken = sum(seconds(lambda depth=depth: one(depth)) for depth in sample)
    return taken * sum(depths) / sum(sample)


def main() -> None:
    """Measure and report."""
    model = ms.load("demo")
    hf = model.language_model.model
    result = model.attribute(PROMPT, TARGET, top=VALUES, effects=False, suppressing=False, query=False)
    tokens = torch.tensor([result.token_ids])

    def forward() -> None:
        with torch.no_grad():
            hf(input_ids=tokens)

    calls = {
        "plain forward pass": forward,
        f"query scores for {VALUES} + {VALUES} value neurons": lambda: result.query(values=VALUES),
        "links, two steps back from 5 + 5 value neurons": lambda: model.query_graph(result),
    }
    write(
        f"{model!r}; {tokens.shape[1]} tokens, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    medians(calls, 2)
    times = medians(calls, REPEATS)
    times["the notebooks' way (extrapolated)"] = notebook_seconds(model, result)
    for name, value in times.items():
        write(f"{name:52} {1e3 * value:8.0f} ms {value / times['plain forward pass']:8.1f} x")


if __name__ == "__main__":
    main()
