"""Parameters as plain tensors, wherever and however they are stored: packed, or offloaded by accelerate.

What is unpacked or fetched is not kept, so that never more than one module's weight takes memory twice.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mnemoscope.errors import UnsupportedModelError


def read_parameter(module: nn.Module, name: str) -> Tensor | None:
    """A parameter of a module as a plain tensor without gradients; None if it has none of that name."""
    stored = getattr(module, name, None)
    if not isinstance(stored, Tensor):
        return None
    if stored.device.type == "meta":
        stored = _fetched(module, name)
    return _unpacked(stored)


def read_weight(module: nn.Module) -> Tensor:
    """A module's weight as a plain tensor without gradients.

    Raises:
        TypeError: it has none.
    """
    weight = read_parameter(module, "weight")
    if weight is None:
        raise TypeError(f"{type(module).__name__} has no weight")
    return weight


def refuse_storage(model: PreTrainedModel) -> None:
    """Refuse weights that cannot be read where they lie, or whose products are not linear in what enters.

    Raises:
        UnsupportedModelError: weights lie on several devices with nothing to move states between them, or
            a layer rounds activations to 8 bits.
    """
    devices = {str(weight.device) for weight in model.parameters()} - {"meta"}
    if len(devices) > 1 and not hasattr(model, "hf_device_map"):
        raise UnsupportedModelError(
            f"the weights of {type(model).__name__} lie on several devices ({', '.join(sorted(devices))}), "
            "and nothing moves states from one to the other; load it with device_map='auto'"
        )
    for name, module in model.named_modules():
        how = _rounds_activations(module) or _is_repacked(module)
        if how is not None:
            raise UnsupportedModelError(f"{name} of {type(model).__name__} {how}")


def _is_repacked(module: nn.Module) -> str | None:
    """Keep bitsandbytes from repacking a layer; say so if it has been repacked already, else None.

    On processors with bfloat16 instructions, a layer of 4 bits in memory repacks its weights in place at its
    first pass, rounds their scales and computes in bfloat16; what it holds then cannot be read.
    """
    bitsandbytes: Any = sys.modules.get("bitsandbytes")
    if bitsandbytes is None or not isinstance(module, bitsandbytes.nn.Linear4bit):
        return None
    layer: Any = module
    if getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
        return (
            "was repacked by bitsandbytes for this processor when it first ran, which rounds its weights; "
            "load the model anew and open it before its first pass, or load it unpacked"
        )
    layer.support_avx512bf16_for_cpu = False
    return None


def _rounds_activations(module: nn.Module) -> str | None:
    """How a layer rounds what enters it and what to do; None if it does not."""
    bitsandbytes: Any = sys.modules.get("bitsandbytes")
    if bitsandbytes is not None and isinstance(module, bitsandbytes.nn.Linear8bitLt):
        return (
            "is packed by bitsandbytes in 8 bits, which rounds what enters it by all tokens together, so "
            "that no sum of parts is exact; load it in 4 bits (load_in_4bit), with torchao's weight-only "
            "types, or unpacked"
        )
    bitnet: Any = sys.modules.get("transformers.integrations.bitnet")
    if bitnet is not None and isinstance(module, (bitnet.BitLinear, bitnet.AutoBitLinear)):
        return (
            "is one of BitNet's quantised layers, which round what enters them to 8 bits, so that no sum of "
            "parts is exact; load a checkpoint without a quantization_config"
        )
    return None


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes token ids, also if its embeddings are offloaded."""
    return _running_device(model.get_input_embeddings())


def output_device(model: PreTrainedModel) -> torch.device:
    """Where a model's head reads states, also if it is offloaded; where token ids go if there is no head."""
    head = model.get_output_embeddings()
    return input_device(model) if head is None else _running_device(head)


def _running_device(module: nn.Module) -> torch.device:
    device = module.get_parameter("weight").device
    if device.type != "meta":
        return device
    hook: Any = getattr(module, "_hf_hook", None)
    return torch.device(hook.execution_device)


def is_plain(weight: Tensor) -> bool:
    """Whether a parameter holds the numbers themselves, in memory."""
    in_memory = weight.device.type != "meta"
    return in_memory and type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point()


def refuse_stored_otherwise(model: PreTrainedModel) -> None:
    """Refuse a model whose weights cannot be changed in place.

    Raises:
        UnsupportedModelError: some are packed or offloaded, or two modules share one.
    """
    for name, weight in model.named_parameters():
        if is_plain(weight):
            continue
        how = "offloaded" if weight.device.type == "meta" else "packed"
        raise UnsupportedModelError(
            f"the weights of {type(model).__name__} are {how} (first {name}), so they cannot be edited; use "
            "`ablate`, which changes none, or load the model unpacked and in memory"
        )
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        for weight in () if module in ends else module.parameters(recurse=False):
            if owners.setdefault(id(weight), name) != name:
                raise UnsupportedModelError(
                    f"{owners[id(weight)]} and {name} share a weight, so editing one "
                    "would change the other; use `ablate`, which changes none, or give each its own copy"
                )


def _fetched(module: nn.Module, name: str) -> Tensor:
    """A parameter that accelerate brings only while the module runs."""
    hook: Any = getattr(module, "_hf_hook", None)
    for part in (hook, *getattr(hook, "hooks", ())):
        kept = getattr(part, "weights_map", None)
        if kept is not None:
            return kept[name].to(part.execution_device)
    raise TypeError(f"{type(module).__name__} has its {name} nowhere; load the model with its weights")


def _unpacked(stored: Tensor) -> Tensor:
    if type(stored) in (Tensor, nn.Parameter):
        return stored.detach()
    bitsandbytes: Any = sys.modules.get("bitsandbytes")
    if bitsandbytes is not None and isinstance(stored, bitsandbytes.nn.Params4bit):
        packed: Any = stored
        return bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state).detach()
    return stored.dequantize().detach()
