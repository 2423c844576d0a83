"""Tokens that are parts of a character: their bytes, and the characters that they make together."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from mnemoscope.model.encoding import token_text

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_UNKNOWN = "\ufffd"


def shown(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return a token's text, with bytes that are no whole character as `‹E6 97›`."""
    text = token_text(tokenizer, token_id)
    if _UNKNOWN not in text:
        return text
    found = _bytes_of(tokenizer, token_id)
    return text if found is None else found.decode("utf-8", "mnemoscope-bytes")


def joined(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Find the characters that several tokens make together.

    Returns:
        `first` and `last` position and `text` of each run of tokens that is whole only together.
    """
    found = []
    for first, last in _broken_runs(tokenizer, ids):
        pieces = [_bytes_of(tokenizer, token_id) for token_id in ids[first : last + 1]]
        text = b"".join(piece or b"\xff" for piece in pieces).decode("utf-8", "replace")
        if _UNKNOWN not in text:
            found.append({"first": first, "last": last, "text": text})
    return found


def _broken_runs(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last place of the shortest runs of tokens that end where a character does."""
    first, kept = 0, b""
    for place, token_id in enumerate(ids):
        own = _bytes_of(tokenizer, token_id) if _UNKNOWN in token_text(tokenizer, token_id) else None
        if own is None:
            kept = b""
            continue
        first = first if kept else place
        kept += own
        if _UNKNOWN not in kept.decode("utf-8", "replace"):
            if place > first:
                yield first, place
            kept = b""


def _bytes_of(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bytes | None:
    """Return the bytes that a token of a byte-level tokenizer stands for; None for other tokens."""
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if not isinstance(piece, str):
        return None
    of_one = _BYTE.fullmatch(piece)
    if of_one is not None:
        return bytes([int(of_one[1], 16)])
    table = _byte_letters()
    return bytes(table[letter] for letter in piece) if all(letter in table for letter in piece) else None


@cache
def _byte_letters() -> dict[str, int]:
    """Return the byte of each letter of byte-level pieces; unprintable bytes are letters from U+0100 up."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}


def _as_bytes(error: UnicodeError) -> tuple[str, int]:
    """Write undecodable bytes as `‹E6 97›`."""
    assert isinstance(error, UnicodeDecodeError)
    wrong = error.object[error.start : error.end]
    return f"‹{' '.join(f'{byte:02X}' for byte in wrong)}›", error.end


codecs.register_error("mnemoscope-bytes", _as_bytes)
