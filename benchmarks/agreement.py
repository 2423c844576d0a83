"""How far a neuron's score (its direct effect) agrees with what removing it really does.

    python benchmarks/agreement.py

For each prompt: the FFN neurons with the highest scores and random ones, each removed alone at all
positions and at the last one, and Spearman's correlation of the score with the fall of log p.
"""

from __future__ import annotations

import random
import statistics
import sys

import pandas as pd

import mnemoscope as ms

PROMPTS = {
    "The capital of Japan is the city of": " Tokyo",
    "The capital of France is": " Paris",
    "The capital of Italy is the city of": " Rome",
    "The Eiffel Tower stands in the city of": " Paris",
    "The language spoken in Brazil is": " Portuguese",
    "The opposite of hot is": " cold",
}
N_BEST = 150
N_RANDOM = 250


def sample(model: ms.Model, prompt: str, target: str) -> pd.DataFrame:
    """Scores and true effects of the best neurons and of random ones."""
    scores = model.attribute(prompt, target, top=1, neurons="all", suppressing=False).ffn_scores
    best = scores.nlargest(N_BEST, "lower")
    rest = scores.drop(best.index)
    chosen = pd.concat([best, rest.loc[random.Random(0).sample(list(rest.index), N_RANDOM)]])
    parts = [ms.FFNNeuron(*pair) for pair in chosen[["layer", "neuron"]].to_numpy().tolist()]
    everywhere = model.single_ablations(prompt, target, parts)["drop"]
    last = model.single_ablations(prompt, target, parts, positions=[-1])["drop"]
    return pd.DataFrame({"score": chosen["lower"].to_numpy(), "everywhere": everywhere, "last": last})


def main() -> None:
    """Measure and report."""
    model = ms.load("demo")
    found: dict[str, list[float]] = {"everywhere": [], "last": []}
    for prompt, target in PROMPTS.items():
        table = sample(model, prompt, target)
        for where, values in found.items():
            values.append(float(table["score"].rank().corr(table[where].rank())))
        rank = int(model.attribute(prompt, target, top=1, suppressing=False).target.rank)
        sys.stdout.write(
            f"{prompt}{target} (rank {rank}): removed at all positions {found['everywhere'][-1]:.2f}, "
            f"at the last {found['last'][-1]:.2f}\n"
        )
        sys.stdout.flush()
    for where, values in found.items():
        sys.stdout.write(f"mean, {where}: {statistics.fmean(values):.2f}\n")


if __name__ == "__main__":
    main()
