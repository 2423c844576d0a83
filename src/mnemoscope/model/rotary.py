"""Rotary factors that depend on the prompts that ran before, made to depend on the prompt alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# Attributes of rotary modules in transformers: the longest prompt seen so far, and the frequencies they began
# with. The names of sorts of layers stand before both where each sort has frequencies of its own.
LONGEST = "max_seq_len_cached"
ORIGINAL = "original_inv_freq"


@contextmanager
def fresh_rotary_factors(model: nn.Module) -> Iterator[None]:
    """Run a model as if it had seen no prompt yet while the context lasts.

    Dynamic NTK scaling keeps the frequencies of the longest prompt so far: after one of 40 tokens, one of 30
    would get the factors of 40. Afterwards the modules have again what they had.
    """
    kept = [(module, name, _state(module, name)) for module, name in _dynamic(model)]
    try:
        for module, name, _ in kept:
            original = getattr(module, name.replace(LONGEST, ORIGINAL))
            _set(module, name, module.original_max_seq_len, original.clone())
        yield
    finally:
        for module, name, state in kept:
            _set(module, name, *state)


def _dynamic(model: nn.Module) -> list[tuple[Any, str]]:
    """Find the rotary modules with dynamic scaling, and where each keeps the longest prompt."""
    return [
        (module, name)
        for module in model.modules()
        if "dynamic" in str(vars(module).get("rope_type", ""))
        for name in vars(module)
        if name.endswith(LONGEST) and hasattr(module, name.replace(LONGEST, ORIGINAL))
    ]


def _state(module: Any, name: str) -> tuple[Any, Any]:
    return getattr(module, name), getattr(module, name.replace(LONGEST, "inv_freq"))


def _set(module: Any, name: str, longest: Any, frequencies: Any) -> None:
    setattr(module, name, longest)
    buffer = name.replace(LONGEST, "inv_freq")
    here = frequencies.to(getattr(module, buffer).device)
    module.register_buffer(buffer, here, persistent=False)
