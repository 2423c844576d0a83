"""Texts of tokens whose bytes are no whole character."""

from __future__ import annotations

import codecs

from typing_extensions import Self


class CutToken(str):
    """Text of a token that holds a part of a character: U+FFFD stands for its bytes.

    JSON, CSV and Parquet files have this text; pages and terminals show the bytes.

    Attributes:
        shown: the text with the bytes, such as `‹E6 97›`.
    """

    shown: str

    def __new__(cls, text: str, content: bytes = b"") -> Self:
        """Make a token of its text and its bytes."""
        made = super().__new__(cls, text)
        made.shown = content.decode("utf-8", "mnemoscope-bytes")
        return made


def named_bytes(content: bytes) -> str:
    """Write bytes that are no whole character, as `‹E6 97›`."""
    return f"‹{content.hex(' ').upper()}›"


def _as_bytes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return named_bytes(error.object[error.start : error.end]), error.end


codecs.register_error("mnemoscope-bytes", _as_bytes)
