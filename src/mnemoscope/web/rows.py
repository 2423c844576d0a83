"""Rows of answers that the command line does not print, such as tokens as they are shown."""

from __future__ import annotations

from math import exp
from typing import Any

from torch import Tensor

from mnemoscope.api import Model
from mnemoscope.errors import TargetError
from mnemoscope.intervention.ablation import TargetState
from mnemoscope.model.encoding import token_text
from mnemoscope.results.attribution import Attribution
from mnemoscope.web.pieces import shown


def with_embeddings(result: Attribution) -> dict[str, Any]:
    """Return the object of an attribution with its value of the embeddings; null in parallel blocks."""
    value = None if result.telescoping_error is None else result.value_of_embeddings
    return {**result.to_json(), "value_of_embeddings": value}


def tokens_of(model: Model, prompt: str, text: str) -> tuple[int, ...]:
    """Return the tokens of a text after a prompt; none if it cannot follow."""
    try:
        return model.target_tokens(prompt, text)
    except TargetError:
        return ()


def with_shown(model: Model, row: dict[str, Any]) -> dict[str, Any]:
    """Add to the row of a token how it is shown."""
    return {**row, "shown": shown(model.tokenizer, row["id"])}


def before_and_after(model: Model, before: TargetState, after: TargetState, top: int) -> dict[str, Any]:
    """Return each token of the target with its log probability before and after, and the likeliest tokens.

    The likeliest are those after the prompt alone.
    """
    tokens = zip(before.of.target, before.each(), after.each(), strict=True)
    return {
        "target_tokens": [
            {
                **with_shown(model, {"id": token, "text": token_text(model.tokenizer, token)}),
                "before": was,
                "after": now,
            }
            for token, was, now in tokens
        ],
        "predictions_before": likeliest(model, before.log_probabilities[0], top),
        "predictions_after": likeliest(model, after.log_probabilities[0], top),
    }


def likeliest(model: Model, log_probabilities: Tensor, top: int) -> list[dict[str, Any]]:
    """Return the likeliest of the next tokens, `[n_vocabulary]`, as rows."""
    best = log_probabilities.topk(min(top, len(log_probabilities)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        with_shown(
            model,
            {
                "rank": rank,
                "id": token,
                "token": token_text(model.tokenizer, token),
                "probability": exp(log_p),
                "log_probability": log_p,
            },
        )
        for rank, (token, log_p) in enumerate(pairs, 1)
    ]
