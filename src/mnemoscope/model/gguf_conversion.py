"""A GGUF file turned into the files that any Hugging Face model folder has.

transformers reads a GGUF, but takes half a minute over it each time, and will not save what it
read: such a model is marked as quantized. Here its float32 weights go to a model without the mark.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from mnemoscope.atomic import give_usual_modes


def convert_gguf(gguf: Path, made: Path) -> None:
    """Write a GGUF file's model as float32 safetensors, its config, and its tokenizer.

    The random state of torch is as before, and transformers' progress bars are kept off stderr.

    Args:
        gguf: the file, of a Llama-like model with SmolLM's tokenizer.
        made: an existing, empty folder.

    Raises:
        OSError: the files cannot be written.
    """
    import torch

    # Imported before stderr is turned away: transformers' log handler keeps the stderr it finds.
    import transformers

    with contextlib.redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
        read: Any = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        config = read.config
        # The first is the mark that forbids saving; the second is the GGUF's own working title.
        for stray in ("quantization_config", "_model_name_or_path"):
            if hasattr(config, stray):
                delattr(config, stray)
        plain: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        plain.generation_config = read.generation_config
        _save(plain, made)
        _convert_tokenizer(gguf, made, config.max_position_embeddings)


def _save(model: Any, made: Path) -> None:
    from safetensors import SafetensorError

    try:
        model.save_pretrained(made)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    give_usual_modes(made)


def _convert_tokenizer(gguf: Path, made: Path, longest: int) -> None:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers passes over the GGUF's `tokenizer.ggml.pre`, here "smollm": digits one by one.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = longest
    tokenizer.save_pretrained(made)
