"""Neurons named by their flat index taken away for real."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mnemoscope.attribution.methods.base import Question
from mnemoscope.intervention.batch import Outcomes, ablate_each
from mnemoscope.intervention.parts import Part, neuron_part


def parts_of(question: Question, index: Tensor) -> list[Part]:
    """The neurons that flat indices stand for."""
    return [neuron_part(question.anatomy, question.kind, neuron) for neuron in index.tolist()]


def outcomes(
    question: Question, sets: Sequence[Sequence[Part]], done: int = 0, total: int | None = None
) -> Outcomes:
    """The objective after each set of neurons is zeroed at all positions.

    Args:
        question: whose objective.
        sets: the neurons, by intervention.
        done: interventions made before, for the report of progress.
        total: interventions in all; None for these and those before.
    """
    in_all = done + len(sets) if total is None else total
    report = question.report
    prediction = question.prediction
    return ablate_each(
        prediction.language_model,
        question.token_ids,
        prediction.objective,
        sets,
        budget=prediction.budget,
        report=None if report is None else lambda here, _: report(done + here, in_all),
    )


def drops(question: Question, index: Tensor, done: int = 0, total: int | None = None) -> Tensor:
    """How far the objective falls without each neuron alone, `[n]`, nats; see `outcomes`."""
    return outcomes(question, [[part] for part in parts_of(question, index)], done, total).drop
