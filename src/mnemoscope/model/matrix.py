"""How the matrix of a module is read, in float32 and some vectors at a time, however it is stored.

What is read is where the weights are, or are fetched to; indices may be anywhere.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mnemoscope.model.stored import read_parameter, read_weight


class Rows(ABC):
    """What outputs of a linear map are made of."""

    @abstractmethod
    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """What each output reads, float32 `[n, n_inputs]`, of all outputs or those chosen."""

    @abstractmethod
    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """What it adds whatever it reads, float32 `[n_outputs]`, or None.

        Args:
            routing: router weights of tokens, `[..., n_experts]`, on which it depends in a mixture of
                experts; it is then `[..., n_outputs]`.
        """


class Matrix(Rows):
    """A linear map from inputs to outputs, with a bias or without."""

    @property
    @abstractmethod
    def n_inputs(self) -> int:
        """How many values it reads."""

    @abstractmethod
    def columns(self, inputs: Tensor | None = None) -> Tensor:
        """What each input writes, float32 `[n, n_outputs]`, of all inputs or those chosen."""

    @abstractmethod
    def scale_inputs(self, inputs: Tensor, factor: float) -> None:
        """Change the weights in place so that chosen inputs count `factor` times."""

    @abstractmethod
    def scale(self, factor: float) -> None:
        """Change the weights in place so that all that it gives counts `factor` times."""


@dataclass(frozen=True)
class Linear(Matrix):
    """Of an `nn.Linear`, or of a `Conv1D`, whose weight is stored transposed."""

    module: nn.Module

    @property
    def n_inputs(self) -> int:
        """How many values it reads."""
        if isinstance(self.module, Conv1D):
            return get_weight(self.module).shape[0]
        # The shape of packed weights is that of the packing.
        return getattr(self.module, "in_features", get_weight(self.module).shape[1])

    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """What it adds whatever it reads, float32 `[n_outputs]`, or None."""
        bias = read_parameter(self.module, "bias")
        return None if bias is None else bias.float()

    def columns(self, inputs: Tensor | None = None) -> Tensor:
        """What each input writes, float32 `[n, n_outputs]`, of all inputs or those chosen."""
        stored = self._by_input()
        return (stored if inputs is None else stored[inputs.to(stored.device)]).float()

    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """What each output reads, float32 `[n, n_inputs]`, of all outputs or those chosen."""
        stored = self._by_input().T
        return (stored if outputs is None else stored[outputs.to(stored.device)]).float()

    def scale_inputs(self, inputs: Tensor, factor: float) -> None:
        """Change the weights in place so that chosen inputs count `factor` times."""
        with torch.no_grad():
            stored = self._by_input()
            stored[inputs.to(stored.device)] *= factor

    def scale(self, factor: float) -> None:
        """Change the weights in place so that all that it gives counts `factor` times."""
        with torch.no_grad():
            get_weight(self.module).mul_(factor)
            bias = getattr(self.module, "bias", None)
            if isinstance(bias, Tensor):
                bias.mul_(factor)

    def _by_input(self) -> Tensor:
        weight = read_weight(self.module)
        return weight if isinstance(self.module, Conv1D) else weight.T


@dataclass(frozen=True)
class LowRank(Matrix):
    """Of a linear layer that adapters add low-rank matrices to while it runs: what they make together.

    It is put together whenever it is asked for and never kept, so of one layer at a time.
    """

    module: Any

    @property
    def n_inputs(self) -> int:
        """How many values it reads."""
        return Linear(self.module.get_base_layer()).n_inputs

    def constant(self, routing: Tensor | None = None) -> Tensor | None:
        """What it adds whatever it reads, float32 `[n_outputs]`, or None."""
        found = Linear(self.module.get_base_layer()).constant()
        for name in self._added():
            bias = self.module.lora_B[name].bias
            if bias is not None:
                found = (0 if found is None else found) + bias.detach().float() * self.module.scaling[name]
        return found

    def columns(self, inputs: Tensor | None = None) -> Tensor:
        """What each input writes, float32 `[n, n_outputs]`, of all inputs or those chosen."""
        stored = self._by_input()
        return stored if inputs is None else stored[inputs.to(stored.device)]

    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """What each output reads, float32 `[n, n_inputs]`, of all outputs or those chosen."""
        stored = self._by_input().T
        return stored if outputs is None else stored[outputs.to(stored.device)]

    def scale_inputs(self, inputs: Tensor, factor: float) -> None:
        """Refused: weights are changed in a merged copy."""
        raise TypeError("merge the adapters before weights are changed")

    def scale(self, factor: float) -> None:
        """Refused: weights are changed in a merged copy."""
        raise TypeError("merge the adapters before weights are changed")

    def _by_input(self) -> Tensor:
        base = self.module.get_base_layer()
        with torch.no_grad():
            stored = read_weight(base).float()
            for name in self._added():
                stored = stored + self.module.get_delta_weight(name).float()
        return stored if isinstance(base, Conv1D) else stored.T

    def _added(self) -> list[str]:
        """The adapters that are added while it runs; what was merged in place is in the weight already."""
        if self.module.disable_adapters or self.module.merged:
            return []
        return [name for name in self.module.active_adapters if name in self.module.lora_A]


def is_adapted(module: nn.Module) -> bool:
    """Whether it is a linear layer with low-rank adapters; there are none where peft was never imported."""
    lora: Any = sys.modules.get("peft.tuners.lora.layer")
    return lora is not None and isinstance(module, lora.Linear) and not module.lora_variant


def matrix_of(module: nn.Module) -> Matrix:
    """The matrix of a module that has one."""
    matrix = getattr(module, "matrix", None)
    if isinstance(matrix, Matrix):
        return matrix
    return LowRank(module) if is_adapted(module) else Linear(module)


def get_weight(module: nn.Module) -> Tensor:
    """A module's weight, of which a type checker knows nothing."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(module).__name__} has no weight")
    return weight
