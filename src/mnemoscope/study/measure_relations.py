"""Sums over all neurons of a fact; heads and neurons of each relation, chosen and measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mnemoscope.api import Model
from mnemoscope.attribution.grids import top_tokens
from mnemoscope.model.tokens import token_text
from mnemoscope.results.parts import Head
from mnemoscope.study.columns import (
    FACT,
    FACTS,
    HEADS,
    OUTCOMES,
    QUERY_NEURONS,
    RANDOM,
    READINGS,
    SUMS,
    VALUE_NEURONS,
)
from mnemoscope.study.facts import ResolvedFact
from mnemoscope.study.filter import to_measure
from mnemoscope.study.measure import Intervention, Tables, ablation_outcomes
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.store import read_table


def relation_heads(folder: Path, options: StudyOptions) -> dict[str, list[tuple[int, int]]]:
    """Return (layer, head) of the heads with the highest mean score of each relation, `head_share` of all."""
    heads = read_table(folder, HEADS.name).merge(_relations(folder), on=FACT)
    found = {}
    for relation, group in heads.groupby("relation", sort=True):
        means = group.groupby(["layer", "head"], as_index=False).agg({"score": "mean"})
        best = means.sort_values(by="score", ascending=False, kind="stable")
        best = best.head(ceil(options.head_share * len(means)))
        found[str(relation)] = list(zip(best["layer"].tolist(), best["head"].tolist(), strict=True))
    return found


def most_listed_neurons(folder: Path, options: StudyOptions) -> Iterator[list[dict[str, Any]]]:
    """Yield each relation's most frequently listed neurons, as rows of `READINGS` without tokens."""
    known = _relations(folder)
    values = read_table(folder, VALUE_NEURONS.name).merge(known, on=FACT)
    queries = read_table(folder, QUERY_NEURONS.name)
    lists = {
        "attention_value": values.query("kind == 'attention'"),
        "ffn_value": values.query("kind == 'ffn'"),
    }
    if not queries.empty:
        lists["ffn_query"] = queries.merge(known, on=FACT)
    for relation, n_facts in sorted(Counter(known["relation"].tolist()).items()):
        rows = []
        for name, table in lists.items():
            rows += _most_listed(table.query("relation == @relation"), name, n_facts, options.read)
        yield [{"relation": relation, **row} for row in rows]


def _relations(folder: Path) -> pd.DataFrame:
    """Return number and relation of the known facts."""
    return to_measure(read_table(folder, FACTS.name)).filter([FACT, "relation"])


def _most_listed(table: pd.DataFrame, name: str, n_facts: int, most: int) -> list[dict[str, Any]]:
    names = ["layer", "head", "dim"] if name == "attention_value" else ["layer", "neuron"]
    measures = [column for column in ("score", "coefficient") if column in table]
    # A neuron listed at several positions counts once a fact, its scores added up.
    of_facts = table.groupby([FACT, *names], as_index=False).agg(dict.fromkeys(measures, "sum"))
    found = of_facts.groupby(names, as_index=False).agg({**dict.fromkeys(measures, "mean"), FACT: "count"})
    found = found.rename(columns={FACT: "n_facts"})
    found = found.sort_values(by=["n_facts", "score"], ascending=False, kind="stable").head(most)
    return [
        {
            "list": name,
            "place": place,
            "layer": int(row["layer"]),
            **{column: int(row[column]) if column in names else None for column in ("neuron", "head", "dim")},
            "n_facts": int(row["n_facts"]),
            "share": row["n_facts"] / n_facts,
            "mean_score": row["score"],
            "mean_coefficient": row.get("coefficient"),
        }
        for place, row in enumerate(found.to_dict("records"), 1)
    ]


# Tokens of a neuron that are listed in each direction.
N_TOKENS = 10
# Vectors projected to the vocabulary at once.
N_AT_ONCE = 64

Heads = Sequence[tuple[int, int]]


def sum_scores(model: Model, facts: Sequence[ResolvedFact], options: StudyOptions) -> Tables:
    """Bound the sums of scores (nats) over all, the positive and the first neurons: rows of `SUMS`."""
    rows = []
    for fact in facts:
        top = max(options.attention_neurons, options.ffn_neurons)
        skipped: Any = {"effects": False, "suppressing": False, "query": False}
        result = model.attribute(fact.prompt, fact.target, top=top, neurons="bounds", **skipped)
        rounding = result.tolerance or 0.0
        kinds = {
            "attention": (result.attention_scores, result.attention_neurons, options.attention_neurons),
            "ffn": (result.ffn_scores, result.ffn_neurons, options.ffn_neurons),
        }
        for kind, (scores, best, n_best) in kinds.items():
            lower, upper = scores["lower"].astype("float64"), scores["upper"].astype("float64")
            first = best["direct"].head(n_best).astype("float64")
            sums = {
                "all": (len(scores), lower.sum(), upper.sum()),
                "positive": (None, lower.clip(lower=0).sum(), upper.clip(lower=0).sum()),
                "top": (len(first), first.sum() - rounding * len(first), first.sum() + rounding * len(first)),
            }
            rows += [(fact.fact.line, kind, which, *found) for which, found in sums.items()]
    table = pd.DataFrame(rows, columns=[FACT, "kind", "neurons", "n_neurons", "lower", "upper"])
    return {SUMS.name: table.astype({"n_neurons": "Int64"})}


def ablate_heads(
    model: Model, facts: Sequence[ResolvedFact], heads: Mapping[str, Heads], options: StudyOptions
) -> Tables:
    """Ablate the heads of each relation, and random ones, on each fact: rows of `OUTCOMES`.

    Args:
        model: the model.
        facts: of any relations.
        heads: (layer, head) of each relation's heads.
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
        yield Intervention("heads", relation, [Head(*head) for head in chosen])
    most = max(map(len, heads.values()))
    generator = torch.Generator().manual_seed(fact.fact.line)
    for draw in range(options.controls):
        drawn = torch.randperm(model.n_layers * model.n_heads, generator=generator)[:most]
        parts = [Head(*divmod(head, model.n_heads)) for head in drawn.tolist()]
        yield Intervention("heads", RANDOM, parts, draw)


def project_neurons(model: Model, neurons: Sequence[Mapping[str, Any]]) -> Tables:
    """Add the promoted and demoted tokens (docs/method.md#vocabulary) to rows of `READINGS`."""
    structure, tokenizer = model.language_model.structure, model.language_model.tokenizer
    device = structure.readout.unembedding.device
    signed = []
    for row in neurons:
        block = structure.blocks[row["layer"]]
        if row["neuron"] is not None:
            projection, index = block.ffn_output, row["neuron"]
        else:
            projection, index = block.attention_output, row["head"] * structure.d_head + row["dim"]
        sign = -1.0 if (row["mean_coefficient"] or 0) < 0 else 1.0
        signed.append(sign * projection.columns(torch.tensor([index], device=device)))
    promotes: list[list[str]] = []
    demotes: list[list[str]] = []
    for some in torch.cat(signed).split(N_AT_ONCE):
        # The order of tokens does not depend on the norm's scale, so any state may set it.
        readout = structure.readout.freeze(some[0])
        values = readout.project(readout.fold(some))
        for texts, sign in ((promotes, 1), (demotes, -1)):
            ids = top_tokens(values, N_TOKENS, sign).tolist()
            texts += [[token_text(tokenizer, i) for i in row] for row in ids]
    nullable = dict.fromkeys(("neuron", "head", "dim"), "Int32")
    table = pd.DataFrame(neurons).assign(promotes=promotes, demotes=demotes)
    return {READINGS.name: table.astype(nullable)}
