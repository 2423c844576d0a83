"""Whether a model's weights are still those that were looked at when it was opened."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mnemoscope.model.stored import is_plain

# Identifies the weights of a model while it is in memory.
WeightsVersion = tuple[Any, ...]


def weights_version(model: nn.Module) -> WeightsVersion:
    """Identify a model's weights: another value once one is replaced, changed in place, or adapted otherwise.

    PyTorch counts changes in place, but not those through `.data`.
    """
    return tuple(_versions(model))


def _versions(model: nn.Module) -> Iterator[Any]:
    tuners: Any = sys.modules.get("peft.tuners.tuners_utils")
    for module in model.modules():
        passing = module._non_persistent_buffers_set
        buffers = [values for name, values in module._buffers.items() if name not in passing]
        for tensor in (*module._parameters.values(), *buffers):
            if tensor is not None:
                yield _place(tensor), 0 if tensor.is_inference() else tensor._version
        if tuners is not None and isinstance(module, tuners.BaseTunerLayer):
            adapter: Any = module
            yield tuple(adapter.active_adapters), adapter.disable_adapters, tuple(adapter.merged_adapters)
            yield tuple(getattr(adapter, "scaling", {}).items())


def _place(tensor: Tensor) -> int:
    """Where a tensor lies; packed ones are told apart as objects, and offloaded ones lie nowhere."""
    if tensor.device.type == "meta":
        return 0
    return tensor.data_ptr() if is_plain(tensor) else id(tensor)
