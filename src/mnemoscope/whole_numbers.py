"""Whole numbers as Python, numpy, pandas and torch give them."""

from __future__ import annotations

from typing import Any


def whole_number(value: Any) -> int | None:
    """Convert a number of any of these libraries to an `int`; None for what is no whole number.

    Accepts `int`, `np.int64`, 0-d tensors and arrays, and floats without a fraction, such as a float column
    of a table holds. A `bool` is no number.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return None if isinstance(value, float) and not value.is_integer() else int(value)
