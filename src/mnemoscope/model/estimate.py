"""What attributing a prompt will take, told from a model's config before any of its weights are read.

Counts are exact; memory and time are estimates. Memory adds up the largest tensors of each step. Time is that
of the products that dominate, at the speed of two products that are timed here and now.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.discovery.layout import find_blocks

_FLOAT32 = 4
_EXPERT_AXES = 3
# Vectors projected to the vocabulary exactly for each of the eight lists beyond those listed.
_SPARE = 64
_N_LISTS = 8
# Tokens that the first bound of every neuron sums exactly.
_N_BOUND = 35
# The backward pass takes twice a forward pass, the query neurons one more of each neuron's column.
_N_PASSES = 5
_TIMED_SECONDS = 0.3


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model, from its config alone.

    Attributes:
        n_parameters: of all weights.
        n_active: of those in the layers that one token passes: fewer in a mixture of experts.
        n_layers, d_model, n_vocabulary: sizes.
        n_columns: of the layer with the most: inputs of the projections that write to the stream and
            take part for one token.
    """

    n_parameters: int
    n_active: int
    n_layers: int
    d_model: int
    n_vocabulary: int
    n_columns: int


@dataclass(frozen=True)
class Estimate:
    """What an attribution will take.

    Attributes:
        n_tokens: of the prompt.
        sizes: of the model.
        dtype: type of the weights.
        weight_bytes: what the weights take.
        working_bytes: what the work takes above them.
        forward_seconds: of one forward pass.
        first_seconds: of the first attribution with a model, which also measures its weights.
        seconds: of every further one.
    """

    n_tokens: int
    sizes: Sizes
    dtype: str
    weight_bytes: int
    working_bytes: int
    forward_seconds: float
    first_seconds: float
    seconds: float


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """Sizes of the model that a config describes; nothing of it is kept in memory.

    Raises:
        UnsupportedModelError: it has no stack of blocks, or no head.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    if head is None:
        raise UnsupportedModelError(f"{type(model).__name__} has no head; load it as a causal language model")
    n_vocabulary, d_model = head.weight.shape
    _, blocks = find_blocks(model)
    chosen = getattr(config.get_text_config(), "num_experts_per_tok", None) or 1
    return Sizes(
        n_parameters=sum(weight.numel() for weight in model.parameters()),
        n_active=sum(_active(weight, chosen) for weight in blocks.parameters()),
        n_layers=len(blocks),
        d_model=d_model,
        n_vocabulary=n_vocabulary,
        n_columns=max(_columns(block, d_model, chosen) for block in blocks),
    )


def estimate(
    sizes: Sizes, n_tokens: int, *, dtype: torch.dtype, top: int = 100, memory_budget: int
) -> Estimate:
    """What attributing a prompt takes on this machine's CPU.

    Args:
        sizes: of the model.
        n_tokens: of the prompt.
        dtype: of the weights.
        top: how many parts are listed.
        memory_budget: bytes that temporary tensors of the search may take.
    """
    d_model, n_columns = sizes.d_model, sizes.n_columns * sizes.n_layers
    forward = _timed(n_tokens, sizes, dtype)
    products = _timed(256, sizes, torch.float32)
    states = 2 * sizes.n_layers + 1 + _N_LISTS * (top + _SPARE)
    forward_seconds = sizes.n_active * n_tokens * forward
    score = states * sizes.n_vocabulary * d_model + n_columns * d_model * _N_BOUND
    seconds = _N_PASSES * forward_seconds + score * products
    measure = (n_columns + sizes.n_vocabulary) * d_model**2
    return Estimate(
        n_tokens=n_tokens,
        sizes=sizes,
        dtype=str(dtype).removeprefix("torch."),
        weight_bytes=sizes.n_parameters * dtype.itemsize,
        working_bytes=memory_budget + _FLOAT32 * _numbers_kept(sizes, n_tokens),
        forward_seconds=forward_seconds,
        first_seconds=seconds + measure * products,
        seconds=seconds,
    )


def _numbers_kept(sizes: Sizes, n_tokens: int) -> int:
    """Numbers in what lies in memory beside the budget of the search."""
    gram = 3 * sizes.d_model**2
    columns = 3 * sizes.n_columns * sizes.d_model
    base_states = 2 * (2 * sizes.n_layers + 1) * sizes.n_vocabulary
    graph = sizes.n_layers * n_tokens * (4 * sizes.n_columns + 12 * sizes.d_model)
    return gram + columns + base_states + graph


def _active(weight: Tensor, n_chosen: int) -> int:
    """Numbers of a parameter that one token meets: of experts, those that it is routed to."""
    if weight.ndim == _EXPERT_AXES:
        return weight.numel() * min(n_chosen, len(weight)) // len(weight)
    return weight.numel()


def _columns(block: nn.Module, d_model: int, n_chosen: int) -> int:
    found = 0
    for module in block.modules():
        down = getattr(module, "down_proj", None)
        if isinstance(down, Tensor) and down.ndim == _EXPERT_AXES:
            d_expert = down.numel() // (len(down) * d_model)
            found += min(n_chosen, len(down)) * d_expert
        elif isinstance(module, nn.Linear) and module.out_features == d_model:
            found += module.in_features
        elif isinstance(module, Conv1D) and module.nf == d_model:
            found += module.weight.shape[0]
    return found


def _timed(n_rows: int, sizes: Sizes, dtype: torch.dtype) -> float:
    """Seconds for one row and one weight, in products like those of the model."""
    rows = torch.ones(n_rows, sizes.d_model, dtype=dtype)
    # Larger than caches, as a model's weights are.
    matrix = torch.ones(min(4096, sizes.n_vocabulary), sizes.d_model, dtype=dtype)
    torch.mm(rows, matrix.T)
    start, n_products = time.perf_counter(), 0
    while time.perf_counter() - start < _TIMED_SECONDS:
        torch.mm(rows, matrix.T)
        n_products += 1
    return (time.perf_counter() - start) / (n_products * n_rows * matrix.numel())
