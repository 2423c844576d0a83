"""Comparison of attribution methods by ablation of the neurons that each ranks first.

For every fact and method: the target after joint ablation of the method's top k neurons, beside the intact
model and random neurons; the agreement of the method's scores with exact ablation of single neurons; the KL
divergence on plain text; and the cost of the method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnemoscope.api import Model
from mnemoscope.api.requests import provenance as provenance_of
from mnemoscope.attribution.methods.base import Method, MethodInput
from mnemoscope.attribution.methods.causal import drops, parts_of
from mnemoscope.attribution.methods.registry import methods as every_method
from mnemoscope.errors import OptionError
from mnemoscope.intervention.controls import (
    ControlsFrom,
    check_controls_from,
    matched_random,
    number_alike,
    smallest_group,
)
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import weights_digest
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.tokens import token_text
from mnemoscope.results import render
from mnemoscope.results.columns import records
from mnemoscope.results.parts import NeuronKind, Part
from mnemoscope.results.resampling import interval, resampled_means
from mnemoscope.results.targets import Provenance
from mnemoscope.study.columns import NONE, RANDOM, SAME_LAYERS
from mnemoscope.study.comparison_effects import (
    ablated_target,
    divergences,
    effect_on_target,
    mean_of_controls,
    seconds_of_a_pass,
)
from mnemoscope.study.facts import ResolvedFact
from mnemoscope.study.store import Store, encoded, read_table

OUTCOMES = "outcomes"
MEASURES = (
    "reciprocal_rank",
    "probability",
    "log_probability",
    "drop",
    "kl",
    "spearman",
    "recall",
    "passes",
    "seconds",
)
# Not compared unless named: one costs as much as all others together, the other is the reference.
LEFT_OUT = ("integrated-gradients", "single-ablation")


@dataclass(frozen=True)
class Terms:
    """Options of a comparison of methods.

    Attributes:
        methods: the methods; by default all but integrated gradients and exact single ablation.
        kind: FFN neurons or attention neurons.
        top: number of neurons of each method to ablate.
        n_random: random neurons on which scores are compared with exact ablation, beside every method's top.
        n_controls: random sets to ablate.
        controls_from: layers from which each method's matched control is drawn: the same, or any for neurons
            of which a layer or an expert has too few others.
    """

    methods: tuple[Method, ...] = field(
        default_factory=lambda: tuple(m for m in every_method().values() if m.name not in LEFT_OUT)
    )
    kind: NeuronKind = "ffn"
    top: int = 10
    n_random: int = 200
    n_controls: int = 5
    controls_from: ControlsFrom = "same layers"

    def for_log_odds(self) -> tuple[Terms, tuple[Method, ...]]:
        """Return the terms with the methods that take log-odds, and the methods left out."""
        taken = tuple(method for method in self.methods if method.takes_log_odds)
        return replace(self, methods=taken), tuple(m for m in self.methods if not m.takes_log_odds)

    def check(self, structure: ModelStructure) -> None:
        """Check that controls can be drawn.

        Raises:
            OptionError: `controls_from` is no choice, or `top` could be more than half of the neurons of a
                layer or an expert, or with `"any layer"` of the model.
        """
        check_controls_from(self.controls_from)
        most = smallest_group(structure, self.kind)
        where, remedy = (
            "a layer or an expert",
            ' or draw the rest from other layers (controls_from="any layer")',
        )
        if self.controls_from == "any layer":
            most, where, remedy = number_alike(structure, self.kind), "the model", ""
        if 2 * self.top > most:
            raise OptionError(
                f"top is {self.top}, and {where} has {most} such neurons, which could leave too few others "
                f"for a random control of the same size; give at most {most // 2}{remedy}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain objects."""
        return {**vars(self), "methods": [method.label for method in self.methods]}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Results of a comparison of methods.

    Attributes:
        terms: the options.
        outcomes: one row per fact and method or control, with the columns `line, prompt, target,
            relation, method, title, neurons` and the `MEASURES`: `reciprocal_rank, probability,
            log_probability` of the target after ablation; `drop`, the fall of the last (nats); `kl` on plain
            text (nats per token); `spearman` rank correlation with exact single ablation, and `recall`, the
            share found of the k neurons whose ablation lowers the target most; the cost in `passes` (forward
            passes of the prompt) and `seconds`. Controls are means over their draws. With facts whose target
            is compared with other tokens there are also `against` (their texts) and `log_odds`, and `drop` is
            the fall of these.
        provenance: model and versions.
    """

    terms: Terms
    outcomes: pd.DataFrame
    provenance: Provenance

    @property
    def n_facts(self) -> int:
        """Number of facts."""
        return self.outcomes["line"].nunique()

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures: `MEASURES`, and `log_odds` with a contrast."""
        return (*MEASURES, *(["log_odds"] if "log_odds" in self.outcomes else []))

    def summary(self) -> pd.DataFrame:
        """Average over facts, with 95 % bootstrap intervals, one row per control and method.

        Columns: `method, title, n_facts`, then mean and interval of each of `measures`, named as in `drop`,
        `drop_low`, `drop_high`. All methods share the resamples of facts.
        """
        lines = self.outcomes["line"].unique()
        rows = []
        for method, group in self.outcomes.groupby("method", sort=False):
            table = group.set_index("line").reindex(lines)
            row = {"method": method, "title": group["title"].iloc[0], "n_facts": len(group)}
            for name in self.measures:
                values = table[name].to_numpy(dtype=float)
                there = values[~np.isnan(values)]
                (low,), (high,) = interval(resampled_means(values[:, None]))
                row[name] = float(there.mean()) if len(there) else float("nan")
                row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
            rows.append(row)
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope methods --json` prints."""
        return {
            "model": self.provenance.model,
            "revision": self.provenance.revision,
            "terms": self.terms.to_json(),
            "n_facts": self.n_facts,
            "summary": records(self.summary()),
            "outcomes": records(self.outcomes),
        }

    def save(self, path: str | Path) -> Path:
        """Write everything (`.json`), the outcomes (`.parquet`) or the chart (`.svg`, `.png`, `.html`).

        Raises:
            OutputError: another ending, or a folder that does not exist or cannot be written.
        """
        return render.report("export").save(self, Path(path))


def compare_methods(
    model: Model,
    facts: Sequence[ResolvedFact],
    terms: Terms | None = None,
    *,
    out: Path | None = None,
    report: Callable[[int, int], None] | None = None,
    each: Callable[[dict[str, Any]], None] | None = None,
) -> Comparison:
    """Compare methods on facts.

    Args:
        model: the model.
        facts: usually those that the model knows (`mnemoscope.study.filter.known_facts`).
        terms: the options.
        out: folder that stores each finished fact; the same call continues an interrupted comparison.
        report: called with the number of facts done and of all.
        each: called as each method ends, with its `method`, `title`, `seconds` and the target's `drop`,
            `probability` and `log_probability`.

    Raises:
        OptionError: the terms could leave too few neurons for controls; or a fact compares its target with
            other tokens, and a method is not defined for log-odds.
        OutputError: the folder holds something else, or cannot be written.
        UnsupportedModelError: the model's blocks cannot run on their own.
    """
    terms = terms or Terms()
    terms.check(model.language_model.structure)
    _, undefined = terms.for_log_odds()
    if undefined and any(fact.against for fact in facts):
        raise OptionError(
            f"{', '.join(method.name for method in undefined)} {'is' if len(undefined) == 1 else 'are'} not "
            f"defined for log-odds; leave {'it' if len(undefined) == 1 else 'them'} or the contrast out"
        )
    provenance = provenance_of(model.language_model, {"terms": terms.to_json()})
    tables = []
    with nullcontext() if out is None else Store.open(out, _manifest(model, provenance, facts)) as store:
        for done, fact in enumerate(facts, 1):
            key = f"{fact.fact.line:08d}"
            if store is None:
                tables.append(compare_on(model, fact, terms, each))
            elif key not in store.done(OUTCOMES):
                store.write(OUTCOMES, key, encoded(compare_on(model, fact, terms, each)))
            if report is not None:
                report(done, len(facts))
        if store is not None:
            tables.append(read_table(store.folder, OUTCOMES).drop(columns="key"))
    return Comparison(terms, pd.concat(tables, ignore_index=True), provenance)


@isolated_call
def compare_on(
    model: Model,
    fact: ResolvedFact,
    terms: Terms,
    each: Callable[[dict[str, Any]], None] | None = None,
) -> pd.DataFrame:
    """Compare methods on one fact, and return its rows of `Comparison.outcomes`.

    Args:
        model: the model.
        fact: the fact.
        terms: the options.
        each: as for `compare_methods`.
    """
    pass_seconds = seconds_of_a_pass(model, fact)
    rows, sets, ranked = [], [], []
    for method in terms.methods:
        # Inputs of its own for every method, so that none profits from what another computed.
        method_input = model.method_input(
            fact.prompt, fact.target, against=fact.against or None, kind=terms.kind
        )
        start = time.perf_counter()
        index, _ = method.top(method_input, terms.top)
        seconds = time.perf_counter() - start
        ranked.append((method, method_input, index.cpu()))
        sets.append(parts_of(method_input, index))
        rows.append(
            {
                "method": method.label,
                "title": method.title,
                "seconds": seconds,
                "passes": seconds / pass_seconds,
                "neurons": [part.name for part in sets[-1]],
            }
        )
        if each is not None:
            each(
                {name: rows[-1][name] for name in ("method", "title", "seconds")}
                | effect_on_target(method_input, sets[-1])
            )
    agreement = _agreement(fact, terms, ranked)
    effects = _effects(model, fact, terms, ranked[0][1], sets)
    table = pd.DataFrame(rows).assign(**agreement)
    table = pd.concat([mean_of_controls(effects, len(sets)), table.join(effects.iloc[: len(sets)])])
    told = {
        "line": fact.fact.line,
        "prompt": fact.fact.prompt,
        "target": fact.fact.target,
        "relation": fact.fact.relation,
    }
    if fact.against:
        texts = (token_text(model.language_model.tokenizer, token) for token in fact.against)
        told |= {"against": ", ".join(texts)}
    columns = [*told, "method", "title", *MEASURES, *(["log_odds"] if fact.against else []), "neurons"]
    return table.assign(**told).reindex(columns=columns).reset_index(drop=True)


def _agreement(
    fact: ResolvedFact, terms: Terms, ranked: Sequence[tuple[Method, MethodInput, Tensor]]
) -> dict[str, list[float]]:
    """Compute Spearman correlation and top-k recall of each method against exact single ablation.

    The sample is every method's top neurons and random ones.
    """
    method_input = ranked[0][1]
    generator = torch.Generator().manual_seed(fact.fact.line)
    existing = method_input.grid.existing.cpu()
    drawn = existing[torch.randperm(len(existing), generator=generator)[: terms.n_random]]
    sample = torch.cat([*(top for _, _, top in ranked), drawn]).unique()
    truth = drops(method_input, sample).cpu()
    best = set(sample[truth.argsort(descending=True, stable=True)[: terms.top]].tolist())
    spearman, recall = [], []
    for method, own, top in ranked:
        scores = method.scores(own, sample)
        pairs = None if scores is None else pd.DataFrame({"truth": truth, "score": scores.cpu()})
        spearman.append(float("nan") if pairs is None else pairs.corr("spearman").iloc[0, 1])
        recall.append(len(best & set(top.tolist())) / len(best))
    return {"spearman": spearman, "recall": recall}


def _effects(
    model: Model,
    fact: ResolvedFact,
    terms: Terms,
    method_input: MethodInput,
    sets: Sequence[Sequence[Part]],
) -> pd.DataFrame:
    """Ablate each method's set, then random neurons of all layers, then of each set's layers.

    The last row is the intact model.
    """
    generator = torch.Generator().manual_seed(fact.fact.line + 1)
    existing = method_input.grid.existing.cpu()
    anywhere = [
        parts_of(method_input, existing[torch.randperm(len(existing), generator=generator)[: terms.top]])
        for _ in range(terms.n_controls)
    ]
    structure = model.language_model.structure
    alike = [matched_random(parts, structure, fact.fact.line, terms.controls_from) for parts in sets]
    every = [*sets, *anywhere, *alike]
    kinds = ["method"] * len(sets) + [RANDOM] * len(anywhere) + [SAME_LAYERS] * len(alike)
    return pd.DataFrame(
        {
            **ablated_target(method_input, [*every, ()]),
            "kl": [*divergences(model, every, kinds), 0.0],
            "control": [*kinds, NONE],
        }
    )


def _manifest(model: Model, provenance: Provenance, facts: Iterable[ResolvedFact]) -> dict[str, Any]:
    return {
        "kind": "comparison of methods",
        "model": provenance.model,
        "revision": provenance.revision,
        "weights": weights_digest(model.language_model.model),
        "dtype": provenance.dtype,
        "mnemoscope": provenance.versions["mnemoscope"],
        "terms": provenance.options["terms"],
        "facts": [
            [
                fact.fact.line,
                list(fact.prompt.ids),
                fact.target,
                *([list(fact.against)] if fact.against else []),
            ]
            for fact in facts
        ],
    }
