"""What zeroing the top 1,000 shallow query FFN neurons does to facts, beside random neurons of their layers.

    python benchmarks/query_ablation.py known_to_demo.jsonl --facts 60

As the paper did (GPT2-large: MRR falls by 92 % and the probability by 95 %; Llama-7B: 87 % and 95 %), on
facts that the model knows, as many of each relation as can be. Also how far the coefficients of the value
neurons fall and how well that was predicted, what happens to plain text, and which neurons only activate
others. Nothing is drawn but the controls, by their seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import mnemoscope as ms
from mnemoscope.results.resampling import INTERVAL, RESAMPLES
from mnemoscope.study.facts import resolve, spread
from mnemoscope.study.filter import known_facts
from mnemoscope.study.formats import read_facts

SPLIT = 300
METRICS = {"reciprocal_rank": "MRR", "probability": "probability"}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path, help="facts, as JSON lines")
    parser.add_argument("--facts", type=int, default=60, help="how many of those that the model knows")
    parser.add_argument("--top", type=int, default=1000, help="query neurons to zero")
    parser.add_argument("--seeds", type=int, default=5, help="random controls of each fact")
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()

    model = ms.load(options.model)
    resolved, _ = resolve(model.language_model, read_facts(options.file).facts)
    known, dropped = known_facts(model.language_model, resolved)
    chosen = spread(known, options.facts)
    sys.stdout.write(f"{len(known)} facts known, {len(dropped)} not; {len(chosen)} taken\n")

    rows, splits = [], []
    for number, fact in enumerate(chosen, 1):
        result = model.attribute(
            fact.fact.prompt, fact.target, top=SPLIT, effects=False, suppressing=False, query=False
        )
        rows.append(_row(model.compare_query_ablation(result, top=options.top, seeds=options.seeds)))
        splits.append(model.query_split(result, top=SPLIT))
        sys.stderr.write(f"{number} of {len(chosen)}\n")
    table = pd.DataFrame(rows)
    _report_target(table)
    _report_coefficients(table)
    _report_split(splits)


def _row(found: ms.QueryAblation) -> dict[str, float]:
    """What is kept of one fact."""
    ablation = found.ablation
    row: dict[str, float] = {"n_neurons": len(ablation.parts)}
    for name in METRICS:
        row |= {
            f"{name} before": ablation.before[name],
            f"{name} after": ablation.after[name],
            f"{name} random": ablation.controls_mean[name],
        }
    row |= {"kl after": ablation.plain_text.kl, "kl random": ablation.controls_mean["kl"]}
    for kind, values in found.agreement.set_index("kind").iterrows():
        row |= {f"{kind} {name}": value for name, value in values.items()}
    return row


def _report_target(table: pd.DataFrame) -> None:
    neurons = table["n_neurons"]
    sys.stdout.write(
        f"\n{neurons.min()} to {neurons.max()} query neurons zeroed; drops with {INTERVAL:.0%} intervals\n"
        f"{'':12} {'before':>8} {'after':>8} {'random':>8} {'drop %':>22} {'drop, random %':>22}\n"
    )
    for name, title in METRICS.items():
        before, after, random = (table[f"{name} {when}"].to_numpy() for when in ("before", "after", "random"))
        sys.stdout.write(
            f"{title:12} {before.mean():8.3f} {after.mean():8.3f} {random.mean():8.3f} "
            f"{_drop(before, after):>22} {_drop(before, random):>22}\n"
        )
    sys.stdout.write(
        f"KL on plain text, nats per token: {table['kl after'].mean():.3f}, "
        f"after random neurons {table['kl random'].mean():.3f}\n"
    )


def _drop(before: np.ndarray, after: np.ndarray) -> str:
    """How far the mean falls, in percent of it, with a bootstrap interval over facts."""
    draws = np.random.default_rng(0).integers(len(before), size=(RESAMPLES, len(before)))
    drops = 100 * (1 - after[draws].mean(1) / before[draws].mean(1))
    low, high = np.quantile(drops, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return f"{100 * (1 - after.mean() / before.mean()):.1f} ({low:.1f} to {high:.1f})"


def _report_coefficients(table: pd.DataFrame) -> None:
    """Medians over facts: a coefficient that was nearly 0 makes a relative change of any size."""
    sys.stdout.write(
        "\nchange of the value neurons' coefficients: medians over facts of the means over neurons, "
        "and mean correlations of predicted and measured\n"
        f"{'':12} {'predicted':>10} {'measured':>10} {'random':>10} {'Pearson':>9} {'Spearman':>9}\n"
    )
    for kind in ("attention", "ffn"):
        changes = (
            f"{100 * table[f'{kind} {name}'].median():8.1f} %"
            for name in ("predicted", "measured", "controls")
        )
        correlations = (f"{table[f'{kind} {name}'].mean():9.2f}" for name in ("pearson", "spearman"))
        sys.stdout.write(f"{kind:12} {' '.join((*changes, *correlations))}\n")


def _report_split(splits: list[pd.DataFrame]) -> None:
    total = pd.DataFrame(pd.concat(splits).groupby("layer").sum())
    sys.stdout.write(
        f"\ntop {SPLIT} FFN query neurons (of attention value neurons) and top {SPLIT} FFN value neurons "
        f"by layer, summed over {len(splits)} facts\n{total.to_string()}\n\n"
        f"in all: {total.sum().to_dict()}\n"
    )


if __name__ == "__main__":
    main()
