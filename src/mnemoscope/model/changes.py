"""Whether a model's weights and hooks are still those that were looked at when it was opened."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mnemoscope.model.isolation import is_ours
from mnemoscope.model.stored import is_plain

# Identifies the weights and hooks of a model while it is in memory.
ModelVersion = tuple[Any, ...]


def model_version(model: nn.Module) -> ModelVersion:
    """Identify a model's weights and hooks.

    Another value comes once a weight is replaced, changed in place or adapted otherwise, or a hook of others
    than this package comes or goes. Takes less than a millisecond. PyTorch counts changes in place, but not
    those through `.data`, which only `weights_fingerprint` sees.
    """
    return tuple(_versions(model))


def weights_fingerprint(model: nn.Module) -> Tensor:
    """Sum up all weights that are in memory, which reads each of them once, `[n]` float32."""
    plain = [weight.detach() for weight in model.parameters() if is_plain(weight)]
    # There may be none: packed and offloaded ones are not plain.
    return torch.cat(
        [
            torch.empty(0),
            *(fingerprint(weight.reshape(*weight.shape[:1] or (1,), -1)).cpu() for weight in plain),
        ]
    )


def fingerprint(rows: Tensor) -> Tensor:
    """Add rows up with weights of their own, `[n, d] -> [d]`: another sum for any changed or moved row."""
    weights = torch.rand(len(rows), generator=torch.Generator().manual_seed(0)).to(rows.device)
    found = torch.zeros(rows.shape[1], device=rows.device)
    for some, part in zip(weights.split(8192), rows.split(8192), strict=True):
        found += some @ part.float()
    return found


def _versions(model: nn.Module) -> Iterator[Any]:
    tuners: Any = sys.modules.get("peft.tuners.tuners_utils")
    for module in model.modules():
        passing = module._non_persistent_buffers_set
        buffers = [values for name, values in module._buffers.items() if name not in passing]
        for tensor in (*module._parameters.values(), *buffers):
            if tensor is not None:
                yield _place(tensor), 0 if tensor.is_inference() else tensor._version
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            yield from (number for number, hook in hooks.items() if not is_ours(hook))
        if tuners is not None and isinstance(module, tuners.BaseTunerLayer):
            adapter: Any = module
            yield tuple(adapter.active_adapters), adapter.disable_adapters, tuple(adapter.merged_adapters)
            yield tuple(getattr(adapter, "scaling", {}).items())


def _place(tensor: Tensor) -> int:
    """Where a tensor lies; packed ones are told apart as objects, and offloaded ones lie nowhere."""
    if tensor.device.type == "meta":
        return 0
    return tensor.data_ptr() if is_plain(tensor) else id(tensor)
