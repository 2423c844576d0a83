"""Sums over all neurons, and measurements that need all facts of a relation: shared heads and neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.api import Model
from mnemoscope.attribution.vocabulary import top_tokens
from mnemoscope.model.tokens import token_text
from mnemoscope.results.parts import Head
from mnemoscope.study.columns import FACT, OUTCOMES, RANDOM, READINGS, SUMS
from mnemoscope.study.facts import ResolvedFact
from mnemoscope.study.measure import Intervention, ablation_outcomes
from mnemoscope.study.options import StudyOptions


def sum_scores(model: Model, facts: Sequence[ResolvedFact], options: StudyOptions) -> dict[str, pd.DataFrame]:
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


# How many tokens of a neuron are listed in each direction.
N_TOKENS = 10
# Rows of the vocabulary's size that are made at once.
N_AT_ONCE = 64

Heads = Sequence[tuple[int, int]]


def ablate_heads(
    model: Model, facts: Sequence[ResolvedFact], heads: Mapping[str, Heads], options: StudyOptions
) -> dict[str, pd.DataFrame]:
    """The rows of `OUTCOMES` after the heads of each relation are zeroed, and random ones.

    Args:
        model: the model.
        facts: of any relations.
        heads: layer and head of each relation's heads.
        options: of the study.
    """
    tables = [
        ablation_outcomes(model, fact, _interventions(model, fact, heads, options)).assign(
            **{FACT: fact.fact.line}
        )
        for fact in facts
    ]
    return {OUTCOMES.name: pd.concat(tables, ignore_index=True)}


def _interventions(
    model: Model, fact: ResolvedFact, heads: Mapping[str, Heads], options: StudyOptions
) -> Iterator[Intervention]:
    for relation, chosen in heads.items():
        yield "heads", relation, 0, 0, [Head(*head) for head in chosen]
    most = max(map(len, heads.values()))
    generator = torch.Generator().manual_seed(fact.fact.line)
    for draw in range(options.controls):
        drawn = torch.randperm(model.n_layers * model.n_heads, generator=generator)[:most]
        yield "heads", RANDOM, draw, 0, [Head(*divmod(head, model.n_heads)) for head in drawn.tolist()]


def project_neurons(model: Model, neurons: Sequence[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """The rows of `READINGS`: neurons with the tokens their directions promote and demote.

    Args:
        model: the model.
        neurons: rows of `READINGS` without these tokens.
    """
    table = pd.DataFrame(neurons)
    structure, tokenizer = model.language_model.structure, model.language_model.tokenizer
    directions = torch.cat([_direction(model, row) for row in neurons])
    signs = torch.tensor([-1.0 if (row["mean_coefficient"] or 0) < 0 else 1.0 for row in neurons])
    promotes: list[list[str]] = []
    demotes: list[list[str]] = []
    for some in (directions * signs.to(directions.device)[:, None]).split(N_AT_ONCE):
        # The order of the tokens does not depend on the norm's scale, whose state is any of them.
        readout = structure.readout.freeze(some[0])
        values = readout.project(readout.fold(some))
        for texts, sign in ((promotes, 1), (demotes, -1)):
            ids = top_tokens(values, N_TOKENS, sign).tolist()
            texts += [[token_text(tokenizer, i) for i in row] for row in ids]
    nullable = dict.fromkeys(("neuron", "head", "dim"), "Int32")
    return {READINGS.name: table.assign(promotes=promotes, demotes=demotes).astype(nullable)}


def _direction(model: Model, row: Mapping[str, Any]) -> Tensor:
    """What a neuron adds to the stream for a coefficient of 1, `[1, d_model]`."""
    structure = model.language_model.structure
    block = structure.blocks[row["layer"]]
    is_ffn = row["neuron"] is not None
    index = row["neuron"] if is_ffn else row["head"] * structure.d_head + row["dim"]
    projection = block.ffn_output if is_ffn else block.attention_output
    return projection.columns(torch.tensor([index], device=structure.readout.unembedding.device))
