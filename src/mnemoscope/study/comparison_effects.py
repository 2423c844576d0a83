"""Effects of ablating sets of neurons in a comparison of methods: on the target and on plain text."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import pandas as pd

from mnemoscope.api import Model
from mnemoscope.attribution.methods.base import MethodInput
from mnemoscope.intervention.batch import ablate_each
from mnemoscope.intervention.predictions import next_token
from mnemoscope.results.parts import Part
from mnemoscope.study.columns import CONTROL_TITLES
from mnemoscope.study.facts import ResolvedFact

CONTROLS = tuple(CONTROL_TITLES)


def effect_on_target(method_input: MethodInput, parts: Sequence[Part]) -> dict[str, float]:
    """Measure the target after the ablation of one set."""
    found = ablated_target(method_input, [parts])
    names = ("drop", "probability", "log_probability", "log_odds")
    return {name: found[name][0] for name in names if name in found}


def ablated_target(method_input: MethodInput, sets: Sequence[Sequence[Part]]) -> dict[str, list[float]]:
    """Measure the target after the ablation of each set; with a contrast there is also `log_odds`."""
    prediction = method_input.prediction
    outcomes = ablate_each(
        prediction.language_model,
        method_input.token_ids,
        prediction.objective,
        sets,
        budget=prediction.budget,
    )
    has_contrast = prediction.objective.against is not None
    return {
        "reciprocal_rank": (1 / outcomes.rank).tolist(),
        "probability": outcomes.log_probability.exp().tolist(),
        "log_probability": outcomes.log_probability.tolist(),
        **({"log_odds": outcomes.value.tolist()} if has_contrast else {}),
        "drop": outcomes.drop.tolist(),
    }


def seconds_of_a_pass(model: Model, fact: ResolvedFact) -> float:
    """Time a plain forward pass of a fact's prompt, the median of three."""

    def timed() -> float:
        start = time.perf_counter()
        next_token(model.language_model, fact.prompt.ids)
        return time.perf_counter() - start

    return statistics.median(timed() for _ in range(3))


def divergences(model: Model, sets: Sequence[Sequence[Part]], kinds: Sequence[str]) -> list[float]:
    """Return the KL divergence on plain text after each set, of the first control of each kind only."""
    seen: set[str] = set()
    found = []
    for parts, kind in zip(sets, kinds, strict=True):
        if kind in seen:
            found.append(float("nan"))
            continue
        if kind != "method":
            seen.add(kind)
        with model.ablate(parts):
            found.append(model.plain_text().effect().kl)
    return found


def mean_of_controls(effects: pd.DataFrame, n_sets: int) -> pd.DataFrame:
    """Average the draws of each control."""
    means = pd.DataFrame(effects.iloc[n_sets:].groupby("control").mean())
    table = means.reindex(list(CONTROLS)).rename_axis("method").reset_index()
    return table.assign(title=table["method"].map(CONTROL_TITLES), neurons=[[] for _ in range(len(table))])
