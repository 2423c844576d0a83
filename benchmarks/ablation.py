"""What 1,000 single-neuron ablations cost, against as many separate forward passes.

    python benchmarks/ablation.py

The neurons are drawn at random from all layers. The separate way runs the model once per neuron with
`Model.ablate`; it is timed on a sample and extrapolated.
"""

from __future__ import annotations

import random
import statistics
import sys
import time

import mnemoscope as ms
from mnemoscope.intervention.predictions import next_token

PROMPT = "In Japan, the capital is the city of"
TARGET = " Tokyo"
N_NEURONS = 1000
SAMPLE = 30


def main() -> None:
    """Measure and report."""
    model = ms.load("demo")
    every = [ms.FFNNeuron(i, n) for i in range(model.n_layers) for n in range(model.d_ff)]
    neurons = random.Random(0).sample(every, N_NEURONS)
    model.single_ablations(PROMPT, TARGET, neurons[:10])
    before = model.compare_ablation(PROMPT, TARGET, neurons[:1], seeds=1).before["log_probability"]

    start = time.perf_counter()
    drops = model.single_ablations(PROMPT, TARGET, neurons)["drop"]
    together = time.perf_counter() - start

    target = model.attribute(PROMPT, TARGET, top=1, suppressing=False).target.id
    tokens = model.predict(PROMPT).token_ids
    times, errors = [], []
    for neuron, drop in zip(neurons[:SAMPLE], drops, strict=False):
        start = time.perf_counter()
        with model.ablate([neuron]):
            log_p = next_token(model.language_model, tokens)[target]
        times.append(time.perf_counter() - start)
        errors.append(abs(before - float(log_p) - drop))
    separate = statistics.median(times) * N_NEURONS
    sys.stdout.write(
        f"{N_NEURONS} single-neuron ablations, {len(tokens)} tokens: {together:.1f} s together, "
        f"{separate:.1f} s one by one (median of {SAMPLE}): {together / separate:.3f} x\n"
        f"largest difference between the two ways on the sample: {max(errors):.1e} nats\n"
    )


if __name__ == "__main__":
    main()
