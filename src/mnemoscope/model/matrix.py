"""How the matrix of a module is read, in float32 and some vectors at a time, however it is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mnemoscope.model.hooks import get_weight


class Matrix(ABC):
    """A linear map from inputs to outputs, with a bias or without."""

    @property
    @abstractmethod
    def n_inputs(self) -> int:
        """How many values it reads."""

    @property
    @abstractmethod
    def bias(self) -> Tensor | None:
        """What it adds whatever it reads, float32 `[n_outputs]`."""

    @abstractmethod
    def columns(self, inputs: Tensor | None = None) -> Tensor:
        """What each input writes, float32 `[n, n_outputs]`, of all inputs or those chosen."""

    @abstractmethod
    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """What each output reads, float32 `[n, n_inputs]`, of all outputs or those chosen."""

    @abstractmethod
    def scale_inputs(self, inputs: Tensor, factor: float) -> None:
        """Change the weights in place so that chosen inputs count `factor` times."""


@dataclass(frozen=True)
class Linear(Matrix):
    """Of an `nn.Linear`, or of a `Conv1D`, whose weight is stored transposed."""

    module: nn.Module

    @property
    def n_inputs(self) -> int:
        """How many values it reads."""
        return get_weight(self.module).shape[0 if isinstance(self.module, Conv1D) else 1]

    @property
    def bias(self) -> Tensor | None:
        """What it adds whatever it reads, float32 `[n_outputs]`."""
        bias = getattr(self.module, "bias", None)
        return bias.detach().float() if isinstance(bias, Tensor) else None

    def columns(self, inputs: Tensor | None = None) -> Tensor:
        """What each input writes, float32 `[n, n_outputs]`, of all inputs or those chosen."""
        stored = self._by_input()
        return (stored if inputs is None else stored[inputs]).float()

    def rows(self, outputs: Tensor | None = None) -> Tensor:
        """What each output reads, float32 `[n, n_inputs]`, of all outputs or those chosen."""
        stored = self._by_input().T
        return (stored if outputs is None else stored[outputs]).float()

    def scale_inputs(self, inputs: Tensor, factor: float) -> None:
        """Change the weights in place so that chosen inputs count `factor` times."""
        with torch.no_grad():
            self._by_input()[inputs] *= factor

    def _by_input(self) -> Tensor:
        weight = get_weight(self.module).detach()
        return weight if isinstance(self.module, Conv1D) else weight.T


def matrix_of(module: nn.Module) -> Matrix:
    """The matrix of a module that has one."""
    return Linear(module)
