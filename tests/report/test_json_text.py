"""Whatever is written is JSON that strict readers accept."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mnemoscope._io import json_text


def _strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text.encode("utf-8")
    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (float("nan"), None),
        ([float("inf"), -float("inf")], ["Infinity", "-Infinity"]),
        ({"a": (np.float32("nan"), np.int64(3), np.arange(2))}, {"a": [None, 3, [0, 1]]}),
        ("a\ud800b é 🙂", "a\ud800b é 🙂"),
    ],
)
def test_writes_what_json_lacks(value: Any, read: Any) -> None:
    assert _strict(json_text(value)) == read
    assert json_text(value, ascii_only=True).isascii()


def test_text_stays_text() -> None:
    assert json_text({"token": "日本"}) == '{"token": "日本"}'


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_every_value_can_be_read_back(value: Any) -> None:
    _strict(json_text(value))


def test_refuses_what_is_no_data() -> None:
    with pytest.raises(TypeError, match="cannot be written"):
        json_text(object())
