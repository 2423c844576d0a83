"""Scores of all neurons added up, between proven bounds (docs/method.md#experiments, item 4)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mnemoscope.api import Model
from mnemoscope.study.facts import ResolvedFact
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.schema import FACT, SUMS


def summed(model: Model, facts: Sequence[ResolvedFact], options: StudyOptions) -> dict[str, pd.DataFrame]:
    """The rows of `SUMS`: of all neurons, of the positive ones, and of the first of each kind.

    Bounds of sums over tens of thousands of neurons take seconds a fact, so a study has them of some facts of
    each relation.
    """
    rows = []
    for fact in facts:
        top = max(options.attention_neurons, options.ffn_neurons)
        result = model.attribute(
            fact.prompt,
            fact.target,
            top=top,
            neurons="bounds",
            effects=False,
            suppressing=False,
            query=False,
        )
        rounding = result.tolerance or 0.0
        kinds = {
            "attention": (result.attention_scores, result.attention_neurons, options.attention_neurons),
            "ffn": (result.ffn_scores, result.ffn_neurons, options.ffn_neurons),
        }
        for kind, (scores, best, n_best) in kinds.items():
            lower, upper = scores["lower"].astype("float64"), scores["upper"].astype("float64")
            first = best["score"].head(n_best).astype("float64")
            sums = {
                "all": (len(scores), lower.sum(), upper.sum()),
                "positive": (None, lower.clip(lower=0).sum(), upper.clip(lower=0).sum()),
                "top": (len(first), first.sum() - rounding * len(first), first.sum() + rounding * len(first)),
            }
            rows += [
                {
                    FACT: fact.fact.line,
                    "kind": kind,
                    "neurons": which,
                    "n_neurons": n,
                    "lower": low,
                    "upper": high,
                }
                for which, (n, low, high) in sums.items()
            ]
    return {SUMS.name: pd.DataFrame(rows).astype({"n_neurons": "Int64"})}
