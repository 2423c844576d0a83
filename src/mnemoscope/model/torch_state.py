"""Torch's settings during a call: those torch starts with; afterwards the caller has its own again.

Some settings belong to a thread (autocast, gradient and inference mode, function and dispatch modes), some to
the whole process (the default type of numbers, the precision of matrix products).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils._python_dispatch import _disable_current_modes

# Device types for which this torch can cast automatically.
_CASTING = tuple(
    kind
    for kind in ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla")
    if torch.amp.is_autocast_available(kind)
)


@dataclass(frozen=True)
class Setting:
    """Setting of the whole process.

    Attributes:
        read: returns its value.
        write: sets it.
        needed: the value during a call.
    """

    read: Callable[[], Any]
    write: Callable[[Any], object]
    needed: Any


class ProcessSettings:
    """Settings of the whole process that have the needed values while any thread is inside.

    The last thread to leave writes back what the first one found, so threads that overlap never write back
    what another one has set.
    """

    def __init__(self, *settings: Setting) -> None:
        self._settings = settings
        self._found: dict[Setting, Any] = {}
        self._inside: set[object] = set()
        self._mutex = threading.RLock()

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Apply the needed values while the context lasts."""
        visitor = object()
        try:
            try:
                self._enter(visitor)
                yield
            finally:
                self._leave(visitor)
        finally:
            # Again, in case Ctrl-C came in the middle of the first time.
            self._leave(visitor)

    def _enter(self, visitor: object) -> None:
        with self._mutex:
            self._inside.add(visitor)
            for setting in self._settings:
                value = setting.read()
                if value != setting.needed:
                    self._found.setdefault(setting, value)
                    setting.write(setting.needed)

    def _leave(self, visitor: object) -> None:
        with self._mutex:
            self._inside.discard(visitor)
            if not self._inside:
                for setting, value in self._found.items():
                    setting.write(value)
                self._found = {}


def _precision_of(backend: Any) -> Setting:
    """Return the setting that may let float32 matrix products round to bfloat16 or TF32."""

    def read() -> str:
        precision = backend.matmul.fp32_precision
        return "ieee" if precision == "none" else precision

    return Setting(read, lambda value: setattr(backend.matmul, "fp32_precision", value), "ieee")


_NUMBERS = ProcessSettings(
    Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    *map(_precision_of, (torch.backends.mkldnn, torch.backends.cuda)),
)


@contextmanager
def default_torch_state() -> Iterator[None]:
    """Restore torch's default state while the context lasts, then the caller's settings.

    Automatic casts are off, gradients on, inference mode off; numbers are float32 and products as precise;
    tensors are made on the CPU unless code says where, and no mode sees what is computed. Takes microseconds.
    """
    found = _ThreadState()
    try:
        try:
            found.clear()
            inference = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
            dispatch = _disable_current_modes() if torch._C._len_torch_dispatch_stack() else nullcontext()
            with _NUMBERS.needed(), dispatch, inference, torch.enable_grad():
                yield
        finally:
            found.restore()
    finally:
        # Again, in case Ctrl-C came in the middle of the first time.
        found.restore()


class _ThreadState:
    """Settings of the current thread: autocast, gradients, and modes (such as a default device)."""

    def __init__(self) -> None:
        self._casts = [kind for kind in _CASTING if torch.is_autocast_enabled(kind)]
        self._gradients = torch.is_grad_enabled()
        self._modes = [
            torch._C._get_function_stack_at(place) for place in range(torch._C._len_torch_function_stack())
        ]

    def clear(self) -> None:
        """Switch autocast off and remove the function modes."""
        for kind in self._casts:
            torch.set_autocast_enabled(kind, False)
        _take_function_modes()

    def restore(self) -> None:
        """Restore the recorded settings."""
        for kind in self._casts:
            torch.set_autocast_enabled(kind, True)
        torch.set_grad_enabled(self._gradients)
        _take_function_modes()
        for mode in self._modes:
            torch._C._push_on_torch_function_stack(mode)


class FunctionMode(TorchFunctionMode):
    """Torch function mode that an interrupt may have taken away before its context ends."""

    def __exit__(self, *error: Any) -> None:
        """Leave the stack of modes, unless others took this mode away."""
        if torch._C._len_torch_function_stack() and _get_current_function_mode() is self:
            super().__exit__(*error)


def _take_function_modes() -> None:
    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()
