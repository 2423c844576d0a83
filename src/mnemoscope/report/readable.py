"""Results whose tokens are labels: characters that are cut between tokens show their bytes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import pandas as pd

from mnemoscope.report.tokens import token_labels
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.query import QueryNeurons, QueryTables
from mnemoscope.results.targets import Target

T = TypeVar("T")
_CUT = "\ufffd"


def readable(result: T) -> T:
    """Replace tokens by `token_labels` wherever a result names one by its position in the prompt.

    Args:
        result: an attribution, or another result with `prompt` and `tokens`. Labels pass through `visible`
            unchanged, so a page or a terminal draws the copy as it draws the result.
    """
    given: Any = result
    if isinstance(given, ContinuationAttribution):
        given = _continuation(given)
    elif any(_CUT in token for token in given.tokens):
        labels = token_labels(given.tokens, given.prompt)
        given = replace(given, tokens=labels, **_relabelled(given, labels))
    return given


def _continuation(result: ContinuationAttribution) -> ContinuationAttribution:
    """Relabel the attribution of each token, target and contrast included."""
    answers = _labelled(result.targets, result.text)
    others = _labelled(result.against_targets, result.against or "")
    n_shared = len(result.shared)
    each, rival = map(list, (map(readable, result.attributions), map(readable, result.against_attributions)))
    for number, target in enumerate(answers[n_shared:]):
        against = others[n_shared : n_shared + 1] if number == 0 else ()
        each[number] = replace(
            each[number], targets=replace(each[number].targets, answers=(target,), against=against)
        )
    for number, target in enumerate(others[n_shared + 1 :]):
        rival[number] = replace(rival[number], targets=replace(rival[number].targets, answers=(target,)))
    return replace(
        result,
        shared=answers[:n_shared],
        attributions=tuple(each),
        against_attributions=tuple(rival),
    )


def _labelled(targets: tuple[Target, ...], text: str) -> tuple[Target, ...]:
    """Return the tokens of an answer with their labels, those that are whole characters as they are."""
    labels = token_labels([target.text for target in targets], text)
    return tuple(
        replace(target, text=label) if _CUT in target.text else target
        for target, label in zip(targets, labels, strict=True)
    )


def _relabelled(result: Any, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the tables with a column `token`, relabelled, by field."""
    found: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, pd.DataFrame) and {"token", "position"} <= set(value):
            found[field.name] = value.assign(token=[labels[position] for position in value["position"]])
        elif isinstance(value, QueryTables | QueryNeurons):
            found[field.name] = replace(value, **_relabelled(value, labels))
    return found
