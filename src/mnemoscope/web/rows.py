"""Tokens as they are shown, joined where they are parts of a character, and rows of answers with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mnemoscope.api import Model
from mnemoscope.errors import TargetError
from mnemoscope.intervention.ablation import TargetState
from mnemoscope.model.encoding import token_bytes, token_text
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.texts import CutToken

_UNKNOWN = "\ufffd"


def shown(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return a token's text, with bytes that are no whole character as `‹E6 97›`."""
    return named(token_text(tokenizer, token_id))


def named(value: Any) -> Any:
    """Replace in plain objects the texts of parts of a character by their bytes.

    `tokens` of a prompt stay as they are: what they make together is shown beside them.
    """
    if isinstance(value, CutToken):
        return value.shown
    if isinstance(value, dict):
        return {key: item if key == "tokens" else named(item) for key, item in value.items()}
    return [named(item) for item in value] if isinstance(value, (list, tuple)) else value


def joined(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Find the characters that several tokens make together.

    Returns:
        `first` and `last` position and `text` of each run of tokens that is whole only together.
    """
    found = []
    for first, last in _broken_runs(tokenizer, ids):
        pieces = [token_bytes(tokenizer, token_id) for token_id in ids[first : last + 1]]
        text = b"".join(piece or b"\xff" for piece in pieces).decode("utf-8", "replace")
        if _UNKNOWN not in text:
            found.append({"first": first, "last": last, "text": text})
    return found


def _broken_runs(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last place of the shortest runs of tokens that end where a character does."""
    first, kept = 0, b""
    for place, token_id in enumerate(ids):
        own = token_bytes(tokenizer, token_id) if _UNKNOWN in token_text(tokenizer, token_id) else None
        if own is None:
            kept = b""
            continue
        first = first if kept else place
        kept += own
        if _UNKNOWN not in kept.decode("utf-8", "replace"):
            if place > first:
                yield first, place
            kept = b""


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
