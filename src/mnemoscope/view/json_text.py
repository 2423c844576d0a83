"""JSON that every reader accepts: no NaN, no half characters, text as text."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    r"""Write plain objects and NumPy numbers as one line of strict JSON.

    NaN becomes `null`, infinities become the strings `"Infinity"` and `"-Infinity"`, a lone
    surrogate its `\uXXXX` escape.

    >>> json_text({"score": float("nan"), "token": "é"})
    '{"score": null, "token": "é"}'
    """
    try:
        text = _strict(value, ascii_only)
    except ValueError:
        text = _strict(_finite(value), ascii_only)
    return _LONE_SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def _strict(value: Any, ascii_only: bool) -> str:
    return json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, default=_to_plain)


def _to_plain(value: Any) -> Any:
    """A NumPy number or array as the Python object it stands for."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
