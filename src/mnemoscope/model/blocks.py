"""The list of a model's blocks, each with modules of its own."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mnemoscope.errors import UnsupportedModelError


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of a model's blocks and its name.

    Raises:
        UnsupportedModelError: it has none.
    """
    config = model.config.get_text_config()
    depth = getattr(config, "num_hidden_layers", None)
    # Beside its text tower a multimodal model has others, which may be as deep.
    inside = set((model if config is model.config else model.get_decoder()).modules())
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and module in inside:
            _refuse_shared(model, name, module)
            return name, module
    raise UnsupportedModelError(
        f"{type(model).__name__} has no list of {depth} blocks, so its layers cannot be told apart; "
        "use a decoder-only transformer (see `mnemoscope models`)"
    )


def _refuse_shared(model: PreTrainedModel, name: str, layers: nn.ModuleList) -> None:
    """Refuse a module with a matrix, or a place in the cache, that two layers share.

    Its parts would belong to both layers; with a cache the one reads the other's keys and values.
    """
    owners: dict[Any, int] = {}
    for index, layer in enumerate(layers):
        for module in layer.modules():
            has_matrix = any(weight.ndim > 1 for weight in module.parameters())
            if has_matrix and owners.setdefault(module, index) != index:
                raise UnsupportedModelError(
                    f"layers {owners[module]} and {index} of {type(model).__name__} share one "
                    f"{type(module).__name__}, so its neurons belong to no single layer; give each layer its "
                    f"own: model.{name}[{index}] = copy.deepcopy(model.{name}[{index}])"
                )
            place = getattr(module, "layer_idx", None)
            if place is not None and owners.setdefault(place, index) != index:
                raise UnsupportedModelError(
                    f"layers {owners[place]} and {index} of {type(model).__name__} both have the layer_idx "
                    f"{place}, so they share keys and values in the cache; give every attention module the "
                    "number of its own layer as layer_idx"
                )
