"""Estimate the memory of an attribution before a model's weights are read."""

from __future__ import annotations

from pathlib import Path

import torch

from mnemoscope.api.requests import MEMORY_BUDGET
from mnemoscope.model.encoding import user_says
from mnemoscope.model.estimate import Estimate, estimate as estimate_of, sizes_of
from mnemoscope.model.loading import describe
from mnemoscope.model.tokens import PromptInput, read_prompt


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

    Counts are exact; `docs/models.md` compares the estimated memory with measured memory.

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
    return estimate_of(sizes_of(found.config), len(ids), dtype=found.dtype, memory_budget=memory_budget)
