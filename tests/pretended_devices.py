"""Devices that are only pretended, so that code for several accelerators is tested where there is none.

A tensor on a pretended device holds its numbers in memory and says that it is elsewhere. Inside `pretended`,
every operation of torch is checked as an accelerator's would be: tensors on different devices must not meet
but for what torch itself allows, which is single numbers and indices in memory, and copies from one to the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

# A kind of device that needs nothing to be installed, and runs backward passes without threads of its own.
DEVICES = (torch.device("lazy:0"), torch.device("lazy:1"))
_MEMORY = torch.device("cpu")
_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}


class Pretended(Tensor):
    """A tensor that says it is on another device.

    Attributes:
        held: its numbers, in memory.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Pretended:
        """Of the same shape and strides."""
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=device,
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Where it pretends to be, and its numbers."""
        return f"Pretended({self.held}, {self.device})"

    def tolist(self) -> Any:
        """Its numbers, as of any tensor."""
        return self.held.tolist()

    def dequantize(self) -> Tensor:
        """Itself: it is no packed weight, though it has a type of its own."""
        return self

    @classmethod
    def __torch_dispatch__(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Outside of `pretended` too, it is checked."""
        return _run(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees what makes new tensors as well."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """Sees what makes tensors of Python's numbers, which torch does out of sight of the other mode."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _as_tensors(args[1]), *args[2:])
        device = kwargs.pop("device", None) if function in (torch.tensor, torch.as_tensor) else None
        made = function(*args, **kwargs)
        return made if device is None else made.to(device)


@contextmanager
def pretended() -> Iterator[None]:
    """Let tensors be put on `DEVICES` while the context lasts.

    The package takes modes away while it computes; these, which stand for devices, stay.
    """
    with (
        patch("mnemoscope.model.torch_state._ThreadState", _Kept),
        patch("mnemoscope.model.torch_state._disable_current_modes", nullcontext),
        _Mode(),
        _FromNumbers(),
    ):
        yield


class _Kept:
    """Stands for the thread's settings, which it leaves as they are."""

    def clear(self) -> None:
        """Do nothing."""

    def restore(self) -> None:
        """Do nothing."""


def _as_tensors(index: Any) -> Any:
    """An index whose lists of places are tensors in memory."""
    if isinstance(index, tuple):
        return tuple(map(_as_tensors, index))
    return torch.tensor([*index], dtype=torch.long) if isinstance(index, (list, range)) else index


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do in memory what a function would do elsewhere, if it could be done there."""
    tensors = [*_tensors_of(args), *_tensors_of(kwargs)]
    if function not in _COPIES:
        _check(function, tensors)
    device = _device(function, tensors, kwargs)
    held_args, held_kwargs = _each(_held, args), _each(_held, kwargs)
    if kwargs.get("device") is not None:
        held_kwargs["device"] = _MEMORY
    found = function(*held_args, **held_kwargs)
    if device == _MEMORY:
        return found
    return return_and_correct_aliasing(function, args, kwargs, _each(_put_on(device), found))


def _tensors_of(value: Any) -> Iterator[Tensor]:
    """Find tensors in what an operation takes; torch's own walk through it takes most of the tests' time."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors_of(each)
    elif isinstance(value, dict):
        yield from _tensors_of(list(value.values()))


def _each(do: Callable[[Any], Any], value: Any) -> Any:
    """Do something with each part of what an operation takes or gives."""
    if isinstance(value, (list, tuple)):
        done = [_each(do, each) for each in value]
        return type(value)(done) if type(value) in (list, tuple) else tuple(done)
    if isinstance(value, dict):
        return {name: _each(do, each) for name, each in value.items()}
    return do(value)


def _check(function: Any, tensors: list[Tensor]) -> None:
    """Refuse what an accelerator would."""
    met = {
        tensor.device
        for place, tensor in enumerate(tensors)
        if tensor.device != _MEMORY or (tensor.ndim and (place == 0 or function not in _INDEXING))
    }
    if len(met) > 1:
        raise RuntimeError(f"{function} meets tensors on {', '.join(sorted(map(str, met)))}")


def _device(function: Any, tensors: list[Tensor], kwargs: dict[str, Any]) -> torch.device:
    """Where the result is."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    if function is _aten.copy_.default:
        return tensors[0].device
    return next((tensor.device for tensor in tensors if tensor.device != _MEMORY), _MEMORY)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


def _put_on(device: torch.device) -> Callable[[Any], Any]:
    return lambda value: (
        Pretended(value, device) if isinstance(value, Tensor) and not isinstance(value, Pretended) else value
    )
