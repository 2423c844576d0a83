"""A family of architectures, as it is listed and proven: ours, or one that another package adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mnemoscope.model.anatomy import Anatomy

Discovery = Callable[[PreTrainedModel, Tensor], Anatomy]


@dataclass(frozen=True)
class Family:
    """A family of architectures.

    Attributes:
        name: what people call it.
        model_type: its name in a transformers config.
        variant: what sets this configuration apart within the family.
        config: settings of a tiny model of it.
        discover: finds the parts of models of this type, given a model and a probe `[1, n_tokens]`, where
            `mnemoscope.model.anatomy.discover` cannot; what it finds is proven like everything else.
    """

    name: str
    model_type: str
    variant: str
    config: dict[str, Any] = field(default_factory=dict)
    discover: Discovery | None = None

    @property
    def is_in_transformers(self) -> bool:
        """Whether the transformers that is installed, with what was registered there, has this type."""
        return self.model_type in CONFIG_MAPPING

    def build(self, seed: int = 0) -> PreTrainedModel:
        """A tiny model with random weights."""
        config = AutoConfig.for_model(self.model_type, **self.config)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        return with_random_weights(model, seed)


def with_random_weights(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """The model with every weight drawn, norms and biases included, so that nothing hides at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.add_(0.3 * noise)
            else:
                weight.copy_(noise * (1.5 / weight.shape[-1] ** 0.5))
    return model
