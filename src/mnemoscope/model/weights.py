"""Weights as float32 matrices, however and wherever they are stored: packed, tied or offloaded.

What is unpacked or fetched is not kept, so that never more than one module's weight takes memory twice.

What is read is where the weights are, or are fetched to; indices may be anywhere.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mnemoscope.errors import UnsupportedModelError


def read_parameter(module: nn.Module, name: str) -> Tensor | None:
    """Return a module's parameter as a plain tensor without gradients; None if there is none of that name."""
    stored = getattr(module, name, None)
    if not isinstance(stored, Tensor):
        return None
    if stored.device.type == "meta":
        stored = _fetched(module, name)
    return _unpacked(stored)


def read_weight(module: nn.Module, name: str = "weight") -> Tensor:
    """Return a module's weight as a plain tensor without gradients.

    Raises:
        TypeError: it has none of that name.
    """
    weight = read_parameter(module, name)
    if weight is None:
        raise TypeError(f"{type(module).__name__} has no {name}")
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
    """Say how a layer rounds its inputs and the remedy; None if it does not round them."""
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
    """Return the device of a model's token ids, also if its embeddings are offloaded."""
    return _running_device(model.get_input_embeddings())


def output_device(model: PreTrainedModel) -> torch.device:
    """Return the device of a model's head, also if offloaded; without a head that of the token ids."""
    head = model.get_output_embeddings()
    return input_device(model) if head is None else _running_device(head)


def _running_device(module: nn.Module) -> torch.device:
    device = module.get_parameter("weight").device
    if device.type != "meta":
        return device
    hook: Any = getattr(module, "_hf_hook", None)
    return torch.device(hook.execution_device)


def is_plain(weight: Tensor) -> bool:
    """Return whether a parameter holds its numbers in memory, neither packed nor offloaded."""
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
    """Load a parameter that accelerate keeps elsewhere until the module runs."""
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


@dataclass(frozen=True)
class Linear:
    """Matrix of an `nn.Linear`, or of a `Conv1D`, whose weight is stored transposed."""

    module: nn.Module

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        if isinstance(self.module, Conv1D):
            return get_weight(self.module).shape[0]
        # The shape of packed weights is that of the packing.
        return getattr(self.module, "in_features", get_weight(self.module).shape[1])

    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """Bias, float32 `[n_outputs]`, or None; `routing` is for mixtures of experts alone."""
        bias = read_parameter(self.module, "bias")
        return None if bias is None else bias.float()

    def columns(self, inputs: Tensor | None = None) -> Tensor:
        """Return the columns of all or of chosen inputs, float32 `[n, n_outputs]`."""
        stored = self._by_input()
        return (stored if inputs is None else stored[inputs.to(stored.device)]).float()

    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """Return the weights of all or of chosen outputs, float32 `[n, n_inputs]`."""
        stored = self._by_input().T
        return (stored if outputs is None else stored[outputs.to(stored.device)]).float()

    def scale_inputs(self, inputs: Tensor, factor: float) -> None:
        """Scale the columns of chosen inputs in place by `factor`."""
        with torch.no_grad():
            stored = self._by_input()
            stored[inputs.to(stored.device)] *= factor

    def scale(self, factor: float) -> None:
        """Scale weights and bias in place by `factor`."""
        with torch.no_grad():
            get_weight(self.module).mul_(factor)
            bias = getattr(self.module, "bias", None)
            if isinstance(bias, Tensor):
                bias.mul_(factor)

    def _by_input(self) -> Tensor:
        weight = read_weight(self.module)
        return weight if isinstance(self.module, Conv1D) else weight.T


@dataclass(frozen=True)
class LowRank(Linear):
    """Matrix of a linear layer together with the low-rank matrices that unmerged adapters add to it.

    Each access assembles the matrix anew, so at most one layer is held at a time.
    """

    module: Any

    def scale_inputs(self, inputs: Tensor, factor: float) -> None:
        """Refuse; weights are changed in a merged copy."""
        raise TypeError("merge the adapters before weights are changed")

    def scale(self, factor: float) -> None:
        """Refuse; weights are changed in a merged copy."""
        raise TypeError("merge the adapters before weights are changed")

    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """Bias, float32 `[n_outputs]`, or None."""
        found = Linear(self.module.get_base_layer()).constant()
        for name in self._added():
            bias = self.module.lora_B[name].bias
            if bias is not None:
                found = (0 if found is None else found) + bias.detach().float() * self.module.scaling[name]
        return found

    def _by_input(self) -> Tensor:
        base = self.module.get_base_layer()
        with torch.no_grad():
            stored = read_weight(base).float()
            for name in self._added():
                stored = stored + self.module.get_delta_weight(name).float()
        return stored if isinstance(base, Conv1D) else stored.T

    def _added(self) -> list[str]:
        """Active adapters that are not merged into the weight."""
        if self.module.disable_adapters or self.module.merged:
            return []
        return [name for name in self.module.active_adapters if name in self.module.lora_A]


def is_adapted(module: nn.Module) -> bool:
    """Return whether a module is a linear layer with low-rank adapters (False before peft is imported)."""
    lora: Any = sys.modules.get("peft.tuners.lora.layer")
    return lora is not None and isinstance(module, lora.Linear) and not module.lora_variant


def get_weight(module: nn.Module) -> Tensor:
    """Return a module's weight, typed for the type checker."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(module).__name__} has no weight")
    return weight
