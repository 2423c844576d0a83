"""Numbers and lists of token ids, as Python, numpy, torch and pandas hand them out."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


def whole_number(value: Any) -> int | None:
    """Return the integer that a value is: an int, a numpy integer, a single integer in a tensor or array.

    Rows of a pandas table hold their integers as floats, so a float without a fraction counts too.

    Returns:
        The integer; None for everything else, booleans and text among it.
    """
    if isinstance(value, torch.Tensor | np.ndarray):
        if value.ndim:
            return None
        value = value.item()
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, float | np.floating):
        return int(value) if float(value).is_integer() else None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_numbers(values: Any) -> list[int] | None:
    """Return the integers of a list, a tuple, a tensor or an array `[n]` or `[1, n]`.

    Returns:
        The integers; None where a value is no integer, or the values are not of one row.
    """
    if isinstance(values, torch.Tensor | np.ndarray):
        rows = values.reshape(-1) if values.ndim == 2 and len(values) == 1 else values
        if rows.ndim != 1:
            return None
        values = rows.tolist()
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        return None
    values = list(values)
    if len(values) == 1 and isinstance(values[0], list | tuple):
        values = list(values[0])
    numbers = [None if isinstance(value, float) else whole_number(value) for value in values]
    return [number for number in numbers if number is not None] if None not in numbers else None
