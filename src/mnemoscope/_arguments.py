"""Checks of arguments (numbers, weight types, devices); imports neither numpy nor torch."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnemoscope.errors import OptionError, UnknownModelError

if TYPE_CHECKING:
    import torch


def whole_number(value: Any) -> int | None:
    """Convert an int, numpy integer, or tensor or array of one integer to an int.

    A float without a fraction is converted too, because rows of a pandas table store integers as floats.

    Returns:
        The integer; None for any other value, including booleans and text.
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
    """Convert a list, tuple, tensor or array `[n]` or `[1, n]` to integers.

    Returns:
        The integers; None if a value is no integer or there is more than one row.
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


def check_factor(factor: float) -> None:
    """Check what values or weights are to be multiplied with.

    Raises:
        OptionError: it is NaN or infinite.
    """
    if not math.isfinite(factor):
        raise OptionError(f"a factor of {factor} gives no values; give a number such as 0, 0.5 or 2")


DTYPES = ("float32", "bfloat16", "float16")
# With this device accelerate lays out the weights over accelerator, memory and disk.
AUTO = "auto"

_OTHER_SPELLINGS = {
    **dict.fromkeys(("fp32", "f32", "float", "single"), "float32"),
    "bf16": "bfloat16",
    **dict.fromkeys(("fp16", "f16", "half"), "float16"),
}
# Types of torch's devices that hold weights and compute; "meta" and the like hold none.
_DEVICE_TYPES = frozenset({"cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia", "xla"})
_KNOWN_DEVICES = "cpu, cuda (cuda:0 is the first GPU), mps or auto"


def dtype_name(dtype: str | torch.dtype | None) -> str | None:
    """Return the name of a weight type; None stays None and means the checkpoint's own type.

    Args:
        dtype: one of `DTYPES`, or the `torch.dtype` of that name.

    Raises:
        OptionError: the type is another one, or spelled otherwise.
    """
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else str(dtype)
    plain = name.removeprefix("torch.")
    if plain in DTYPES:
        return plain
    if meant := _OTHER_SPELLINGS.get(plain.lower()):
        raise OptionError(f"dtype is {name!r}; write {meant}")
    if plain == "auto":
        raise OptionError("dtype is 'auto'; leave it out to keep the checkpoint's own type")
    raise OptionError(f"dtype is {name!r}; give one of {', '.join(DTYPES)}")


def device_name(device: str | torch.device | None) -> str | None:
    """Return the name of a device; None stays None and means the CPU.

    Whether the machine has the device is checked when the weights are moved there.

    Args:
        device: `auto`, a type such as `cuda`, a type and a number such as `cuda:1`, or a `torch.device`.

    Raises:
        OptionError: no device has this name.
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


CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"


def check_model_path(source: str) -> None:
    """Refuse the path of a model that is not there; names that may be of the hub pass.

    Commands call this before torch is imported.

    Raises:
        UnknownModelError: the path does not exist, or holds no model.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        raise UnknownModelError(f"{source} is a file but not a .gguf; give a model's folder or a .gguf file")
    if (
        path.is_dir()
        and source != "demo"
        and not any((path / name).is_file() for name in (CONFIG, ADAPTER_CONFIG))
    ):
        found = sorted(file.name for file in path.glob("*.gguf"))
        remedy = f"give {path / found[0]}" if found else "give a folder saved by save_pretrained"
        raise UnknownModelError(f"the folder {path} has no {CONFIG}; {remedy}")
    looks_local = path.suffix == ".gguf" or path.is_absolute() or source.startswith((".", "~"))
    if not path.exists() and (looks_local or source.count("/") > 1):
        raise UnknownModelError(f"there is no file or folder {source}; check the path, or give a hub id")
