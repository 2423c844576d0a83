"""What an attribution will take, before a model's weights are read."""

from __future__ import annotations

from pathlib import Path

import torch

from mnemoscope.api.opened import MEMORY_BUDGET
from mnemoscope.errors import PromptError
from mnemoscope.model.chat import chat_text
from mnemoscope.model.estimate import Estimate, sizes_of
from mnemoscope.model.estimate import estimate as estimate_of
from mnemoscope.model.loading import describe


def estimate(
    model: str | Path,
    prompt: str,
    *,
    top: int = 100,
    chat: bool = False,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    memory_budget: int = MEMORY_BUDGET,
) -> Estimate:
    """Memory and time that `Model.attribute` takes on this machine's CPU, its weights unread.

    Counts are exact, memory and time are estimates: see `docs/models.md` for how near they come.

    Args:
        model: `"demo"`, a hub id, a folder or a `.gguf` file.
        prompt: the text before the target.
        top: how many parts are to be listed.
        chat: put the prompt into the model's chat template first.
        revision: as for `load`.
        dtype: as for `load`.
        trust_remote_code: as for `load`.
        memory_budget: as for `attribute`.

    Raises:
        UnknownModelError, ModelFileError, UnsupportedModelError, OptionError: as `load` does.
        PromptError: the prompt is empty.

    >>> import mnemoscope as ms
    >>> ms.estimate("demo", "The capital of Japan is the city of").n_tokens  # doctest: +SKIP
    8
    """
    found = describe(model, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code)
    text = chat_text(found.name, found.tokenizer, prompt) if chat else prompt
    n_tokens = len(found.tokenizer(text, add_special_tokens=not chat).input_ids)
    if not n_tokens:
        raise PromptError("the prompt is empty; give the text whose next token is to be explained")
    return estimate_of(
        sizes_of(found.config), n_tokens, dtype=found.dtype, top=top, memory_budget=memory_budget
    )
