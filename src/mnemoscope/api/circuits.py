"""Circuits of a model: found, and contrasts of activations between two sets of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from mnemoscope.api.requests import provenance
from mnemoscope.attribution.options import check_counts
from mnemoscope.circuit.compare import compare_methods
from mnemoscope.circuit.contrast import contrast as contrast_activations
from mnemoscope.circuit.find import CircuitOptions, Report, find_circuit
from mnemoscope.circuit.nodes import NodeSpace, check_kinds
from mnemoscope.circuit.tasks import Task, read_pairs
from mnemoscope.errors import OptionError
from mnemoscope.model.isolation import interventions_on
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import PromptInput, encode_prompt
from mnemoscope.results.circuit import Circuit, CircuitKind
from mnemoscope.results.circuit_comparison import CircuitComparison


def find(
    language_model: LanguageModel,
    task: Task,
    test: Task | None,
    options: CircuitOptions,
    budget: int,
    report: Report | None,
) -> Circuit:
    """Find a circuit; see `Model.circuit`."""
    _refuse_ablation(language_model)
    options.check()
    return find_circuit(
        language_model,
        read_pairs(task),
        None if test is None else read_pairs(test),
        options,
        provenance(language_model, options.to_json()),
        budget=budget,
        report=report,
    )


def contrast(
    language_model: LanguageModel,
    positive: Sequence[PromptInput],
    negative: Sequence[PromptInput],
    kinds: Sequence[CircuitKind],
    top: int,
    budget: int,
) -> pd.DataFrame:
    """Contrast activations; see `Model.contrast`."""
    check_counts(top=top)
    checked = check_kinds(kinds)
    if "head" in checked:
        raise OptionError("a head has no single activation; give the kinds ffn and attention")
    space = NodeSpace(language_model.structure, checked, None)
    ids, others = (
        [encode_prompt(language_model, prompt).ids for prompt in each] for each in (positive, negative)
    )
    return contrast_activations(language_model, ids, others, space, top, budget)


def compare(
    language_model: LanguageModel,
    tasks: Mapping[str, Task | tuple[Task, Task | None]],
    methods: Sequence[str] | None,
    options: CircuitOptions,
    exact: int,
    out: Path | None,
    budget: int,
    report: Report | None,
) -> CircuitComparison:
    """Compare methods; see `Model.compare_circuits`."""
    _refuse_ablation(language_model)
    read = {}
    for name, task in tasks.items():
        train, test = cast("tuple[Task, Task | None]", task if isinstance(task, tuple) else (task, None))
        read[name] = read_pairs(train), None if test is None else read_pairs(test)
    return compare_methods(
        language_model,
        read,
        options,
        methods,
        provenance(language_model, options.to_json()),
        exact=exact,
        out=out,
        budget=budget,
        report=report,
    )


def _refuse_ablation(language_model: LanguageModel) -> None:
    """Refuse to find circuits of a changed model.

    Raises:
        OptionError: an ablation lasts.
    """
    if interventions_on(language_model.model):
        raise OptionError("a circuit is found in the model as it is; find it outside the ablation")
