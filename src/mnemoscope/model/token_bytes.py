"""The bytes of tokens, which byte-level vocabularies write as letters."""

from __future__ import annotations

import re
from functools import cache

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_bytes(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bytes | None:
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
    return {letter: byte for byte, letter in bytes_to_unicode().items()}
