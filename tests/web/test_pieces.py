"""Tokens that are parts of a character."""

from __future__ import annotations

from typing import Any

from mnemoscope.model.encoding import _byte_letters, encode_text
from mnemoscope.web.rows import joined, shown


class OfBytes:
    """A byte-level tokenizer whose pieces are bytes."""

    def __init__(self) -> None:
        self._letters = {byte: letter for letter, byte in _byte_letters().items()}

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return self._letters[token_id]

    def decode(self, ids: list[int], **_: Any) -> str:
        return bytes(ids).decode("utf-8", "replace")


def test_bytes_are_shown_and_joined() -> None:
    tokenizer: Any = OfBytes()
    ids = list("a日é".encode())
    assert [shown(tokenizer, token) for token in ids[:4]] == ["a", "‹E6›", "‹97›", "‹A5›"]
    assert joined(tokenizer, ids) == [
        {"first": 1, "last": 3, "text": "日"},
        {"first": 4, "last": 5, "text": "é"},
    ]
    assert joined(tokenizer, ids[:3]) == []


def test_the_demo_model_shows_what_its_tokens_hold(demo: Any) -> None:
    tokenizer = demo.tokenizer
    for text in ("日本の首都は", "שלום", "🙂👩‍🔬"):
        ids = encode_text(tokenizer, text)
        assert not any("\ufffd" in shown(tokenizer, token) for token in ids)
        parts, place = "", 0
        runs = {run["first"]: run for run in joined(tokenizer, ids)}
        while place < len(ids):
            run = runs.get(place)
            parts += run["text"] if run else shown(tokenizer, ids[place])
            place = run["last"] + 1 if run else place + 1
        assert parts == text
