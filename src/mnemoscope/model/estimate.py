"""The sizes of a model and the memory that an attribution takes, from the config alone.

Counts are exact. Memory is an estimate: the sum of the largest tensors of each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.discovery.layout import find_blocks
from mnemoscope.model.encoding import user_says
from mnemoscope.model.loading import describe
from mnemoscope.model.tokens import PromptInput, read_prompt

# Default bytes that the tensors of one step may take.
MEMORY_BUDGET = 200 * 2**20


_FLOAT32_BYTES = 4
_EXPERT_AXES = 3


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        n_parameters: number of weights.
        n_active: number of weights in the layers that one token passes; smaller in a mixture of experts.
        n_layers, d_model, n_vocabulary: sizes.
        n_columns: inputs of the projections that write to the residual stream and take part for one token,
            in the layer with the most.
    """

    n_parameters: int
    n_active: int
    n_layers: int
    d_model: int
    n_vocabulary: int
    n_columns: int


@dataclass(frozen=True)
class Estimate:
    """Estimated memory of an attribution.

    Attributes:
        n_tokens: length of the prompt.
        sizes: sizes of the model.
        dtype: type of the weights.
        weight_bytes: bytes of the weights.
        working_bytes: bytes above the weights while the attribution runs.
    """

    n_tokens: int
    sizes: Sizes
    dtype: str
    weight_bytes: int
    working_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope attribute --dry-run --json` prints."""
        return {
            "n_tokens": self.n_tokens,
            "dtype": self.dtype,
            **vars(self.sizes),
            "weight_bytes": self.weight_bytes,
            "working_bytes": self.working_bytes,
        }


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """Return the sizes of the model that a config describes; its weights are not allocated.

    Raises:
        UnsupportedModelError: the model has no stack of blocks or no head.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    if head is None:
        raise UnsupportedModelError(f"{type(model).__name__} has no head; load it as a causal language model")
    n_vocabulary, d_model = head.weight.shape
    _, blocks = find_blocks(model)
    n_chosen = getattr(config.get_text_config(), "num_experts_per_tok", None) or 1
    return Sizes(
        n_parameters=sum(weight.numel() for weight in model.parameters()),
        n_active=sum(_n_active(weight, n_chosen) for weight in blocks.parameters()),
        n_layers=len(blocks),
        d_model=d_model,
        n_vocabulary=n_vocabulary,
        n_columns=max(_n_columns(block, d_model, n_chosen) for block in blocks),
    )


def estimate_from_sizes(sizes: Sizes, n_tokens: int, *, dtype: torch.dtype, memory_budget: int) -> Estimate:
    """Estimate the memory that attributing a prompt takes on the CPU.

    Args:
        sizes: sizes of the model.
        n_tokens: length of the prompt.
        dtype: type of the weights.
        memory_budget: bytes that temporary tensors of the search may take.
    """
    gram = 3 * sizes.d_model**2
    columns = 3 * sizes.n_columns * sizes.d_model
    base_states = 2 * (2 * sizes.n_layers + 1) * sizes.n_vocabulary
    graph = sizes.n_layers * n_tokens * (4 * sizes.n_columns + 12 * sizes.d_model)
    return Estimate(
        n_tokens=n_tokens,
        sizes=sizes,
        dtype=str(dtype).removeprefix("torch."),
        weight_bytes=sizes.n_parameters * dtype.itemsize,
        working_bytes=memory_budget + _FLOAT32_BYTES * (gram + columns + base_states + graph),
    )


def _n_active(weight: Tensor, n_chosen: int) -> int:
    """Count the numbers of a parameter that one token uses: of stacked experts, those of the chosen ones."""
    if weight.ndim == _EXPERT_AXES:
        return weight.numel() * min(n_chosen, len(weight)) // len(weight)
    return weight.numel()


def _n_columns(block: nn.Module, d_model: int, n_chosen: int) -> int:
    """Count the inputs of a block's projections to the residual stream, experts not chosen left out.

    Of a module's layers with outputs of the stream's width the last one writes to the stream: those before
    it give queries, keys or values of that width.
    """
    experts, last = 0, {}
    for name, module in block.named_modules():
        parent = name.rpartition(".")[0]
        down = getattr(module, "down_proj", None)
        if isinstance(down, Tensor) and down.ndim == _EXPERT_AXES:
            experts += min(n_chosen, len(down)) * (down.numel() // (len(down) * d_model))
        elif isinstance(module, nn.Linear) and module.out_features == d_model:
            last[parent] = module.in_features
        elif isinstance(module, Conv1D) and module.nf == d_model:
            last[parent] = module.weight.shape[0]
    return experts + sum(last.values())


def estimate(
    model: str | Path,
    prompt: PromptInput,
    *,
    chat: bool = False,
    add_special_tokens: bool = True,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    memory_budget: int = MEMORY_BUDGET,
) -> Estimate:
    """Estimate the memory that `Model.attribute` takes on the CPU, without reading weights.

    Counts are exact; `docs/large_models.md` compares the estimated memory with measured memory.

    Args:
        model: `"demo"`, a hub id, a folder or a `.gguf` file.
        prompt: as for `Model.attribute`.
        chat: put the prompt into the model's chat template first.
        add_special_tokens: as for `Model.prompt`.
        revision: as for `load`.
        dtype: as for `load`.
        trust_remote_code: as for `load`.
        memory_budget: as for `attribute`.

    Raises:
        UnknownModelError, ModelFileError, UnsupportedModelError, OptionError: as `load` does.
        PromptError: the prompt is empty, or of another type.

    >>> import mnemoscope as ms
    >>> ms.estimate("demo", "The capital of Japan is the city of").n_tokens  # doctest: +SKIP
    8
    """
    found = describe(model, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code)
    given = user_says(prompt) if chat and isinstance(prompt, str) else prompt
    _, ids, _ = read_prompt(found.name, found.tokenizer, given, add_special_tokens)
    return estimate_from_sizes(
        sizes_of(found.config), len(ids), dtype=found.dtype, memory_budget=memory_budget
    )
