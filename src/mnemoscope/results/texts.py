"""Texts of tokens whose bytes are no whole character."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

from typing_extensions import Self

_CUT = "\ufffd"


class CutToken(str):
    """Text of a token that holds a part of a character: U+FFFD stands for its bytes.

    JSON, CSV and Parquet files have this text; pages and terminals show the bytes. Files that are read back
    have the bytes too (`bytes_of`).

    Attributes:
        content: the bytes.
        shown: the text with the bytes, such as `‹E6 97›`.
    """

    content: bytes
    shown: str

    def __new__(cls, text: str, content: bytes = b"") -> Self:
        """Make a token of its text and its bytes."""
        made = super().__new__(cls, text)
        made.content = content
        made.shown = content.decode("utf-8", "mnemoscope-bytes")
        return made


def bytes_of(value: Any) -> list[str | None]:
    """List the bytes of the tokens with U+FFFD in nested lists and dicts, in order, as hexadecimal digits.

    None stands for a token whose bytes are not known.
    """
    if isinstance(value, str):
        known = value.content.hex() if isinstance(value, CutToken) else None
        return [known] if _CUT in value else []
    each = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [found for one in each for found in bytes_of(one)]


def with_bytes(value: Any, known: Iterator[str | None]) -> Any:
    """Return nested lists and dicts whose tokens with U+FFFD have the bytes that `bytes_of` listed."""
    if isinstance(value, str):
        content = next(known, None) if _CUT in value else None
        return value if content is None else CutToken(value, bytes.fromhex(content))
    if isinstance(value, dict):
        return {key: with_bytes(one, known) for key, one in value.items()}
    return [with_bytes(one, known) for one in value] if isinstance(value, list) else value


def named_bytes(content: bytes) -> str:
    """Write bytes that are no whole character, as `‹E6 97›`."""
    return f"‹{content.hex(' ').upper()}›"


def _as_bytes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return named_bytes(error.object[error.start : error.end]), error.end


codecs.register_error("mnemoscope-bytes", _as_bytes)
