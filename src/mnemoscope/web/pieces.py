"""Tokens that are parts of a character: their bytes, and the characters that they make together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from mnemoscope.model.encoding import token_text
from mnemoscope.model.token_bytes import token_bytes
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
