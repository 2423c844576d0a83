"""Checks of callers' arguments: whole numbers, weight types, devices; imports neither numpy nor torch."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mnemoscope.errors import OptionError

if TYPE_CHECKING:
    import torch


def whole_number(value: Any) -> int | None:
    """Return the integer that a value is: an int, a numpy integer, a single integer in a tensor or array.

    Rows of a pandas table hold their integers as floats, so a float without a fraction counts too.

    Returns:
        The integer; None for everything else, booleans and text among it.
    """
    if hasattr(value, "ndim"):
        if value.ndim:
            return None
        value = value.item()
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
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
    if hasattr(values, "reshape"):
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


DTYPES = ("float32", "bfloat16", "float16")
# The device that leaves it to accelerate where weights lie: an accelerator, memory, or disk.
AUTO = "auto"

_MEANT_DTYPES = {
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "single": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
}
# Types of torch's devices that hold weights and compute; "meta" and the like hold none.
_DEVICE_TYPES = frozenset({"cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia", "xla"})
_KNOWN_DEVICES = "cpu, cuda (cuda:0 is the first GPU), mps or auto"


def dtype_name(dtype: str | torch.dtype | None) -> str | None:
    """Return the name of a type of weights; None stays None, the checkpoint's own type.

    Args:
        dtype: one of `DTYPES`, or the `torch.dtype` of that name.

    Raises:
        OptionError: it is another type, or another spelling.
    """
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else str(dtype)
    plain = name.removeprefix("torch.")
    if plain in DTYPES:
        return plain
    if meant := _MEANT_DTYPES.get(plain.lower()):
        raise OptionError(f"dtype is {name!r}; write {meant}")
    if plain == "auto":
        raise OptionError("dtype is 'auto'; leave it out to keep the checkpoint's own type")
    raise OptionError(f"dtype is {name!r}; give one of {', '.join(DTYPES)}")


def device_name(device: str | torch.device | None) -> str | None:
    """Return the name of a device; None stays None, the CPU.

    Whether this machine has the device is known when the weights go there.

    Args:
        device: `auto`, a type of device such as `cuda`, a type and a number such as `cuda:1`, or a
            `torch.device`.

    Raises:
        OptionError: no device is called that.
    """
    if device is None:
        return None
    name = str(device)
    kind, colon, number = name.partition(":")
    if name == AUTO or (kind in _DEVICE_TYPES and (number.isdecimal() or not colon)):
        return name
    if kind.lower() in {"gpu", "nvidia", "cuda"} and (number.isdecimal() or not colon):
        raise OptionError(f"the device {name!r} is not known; write cuda{colon}{number}")
    if name.isdecimal():
        raise OptionError(f"the device {name!r} is not known; write cuda:{name}, or give {_KNOWN_DEVICES}")
    raise OptionError(f"the device {name!r} is not known; give {_KNOWN_DEVICES}")
