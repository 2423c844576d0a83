"""Results whose tokens are labels: characters that are cut between tokens show their bytes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import pandas as pd

from mnemoscope.report.tokens import token_labels
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.query import QueryNeurons, QueryTables

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
    """Relabel each token's attribution, its target included."""
    names = token_labels([target.text for target in result.targets], result.text)
    each = []
    for name, found in zip(names, map(readable, result.attributions), strict=True):
        target = replace(found.target, text=name) if _CUT in found.target.text else found.target
        each.append(replace(found, targets=replace(found.targets, answers=(target,))))
    return replace(result, attributions=tuple(each))


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
