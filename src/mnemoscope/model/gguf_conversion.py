"""Conversion of a GGUF file to a Hugging Face model folder.

transformers reads GGUF files, but parses a file and builds the table of tensor names several times, and
refuses to save the model, which it marks as quantized. `parsed_once` makes it parse once; `convert_gguf`
moves the float32 weights to a model without the mark, and saves that.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnemoscope._io import give_usual_modes
from mnemoscope.errors import ModelFileError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_one_at_a_time = threading.RLock()


def convert_gguf(gguf: Path, made: Path) -> None:
    """Write a GGUF file's model as float32 safetensors, its config, and its tokenizer.

    The random state of torch is restored, and progress bars are kept off stderr.

    Args:
        gguf: the file.
        made: an existing, empty folder.

    Raises:
        OSError: the files cannot be written.
        ModelFileError: the saved tokenizer differs from the file's, or the file lacks tensors. Other errors
            of transformers pass unchanged.
    """
    import torch

    # Imported before stderr is turned away: transformers' log handler keeps the stderr it finds.
    import transformers  # noqa: F401

    with contextlib.redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]), parsed_once():
        read = _read(gguf)
        with _write_errors():
            _without_mark(read).save_pretrained(made)
        give_usual_modes(made)
        _convert_tokenizer(gguf, made, read.config)


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Let transformers parse each GGUF file, and build each table of tensor names, once within the context.

    A version of transformers that takes neither from the package `gguf` is not affected.
    """
    import gguf

    with _one_at_a_time:
        if hasattr(gguf.GGUFReader, "cache_info"):  # already within this context
            yield
            return
        own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
        try:
            gguf.GGUFReader = functools.cache(_quick_reader())  # pyright: ignore[reportAttributeAccessIssue]
            gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
            yield
        finally:
            for name, function in own.items():
                setattr(gguf, name, function)


def _quick_reader() -> type:
    """Return a GGUF reader that slices the file as a plain array, several times faster than as a memmap."""
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        @property
        def data(self) -> Any:
            return self._bytes

        @data.setter
        def data(self, mapped: Any) -> None:
            self._bytes = mapped.view(np.ndarray)

    return Reader


def correct_tokenizer(gguf: Path, tokenizer: Any, config: Any) -> None:
    """Add to a tokenizer the settings of a GGUF file that transformers passes over.

    Args:
        gguf: the file.
        tokenizer: tokenizer that transformers made from the file; changed in place.
        config: the model's config.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    # SmolLM splits numbers into digits. The other values of `tokenizer.ggml.pre` are left to transformers.
    field = _reader(gguf).fields.get("tokenizer.ggml.pre")
    if field is not None and bytes(field.parts[-1]) == b"smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None:
        tokenizer.model_max_length = longest


def float32_bytes(gguf: Path) -> int:
    """Count the bytes that a GGUF file's tensors take as float32."""
    return 4 * sum(int(tensor.n_elements) for tensor in _reader(gguf).tensors)


def _reader(path: Path) -> Any:
    import gguf

    return gguf.GGUFReader(os.fspath(path))


def _read(gguf: Path) -> Any:
    """Read a GGUF file's model in float32 with transformers.

    Raises:
        ModelFileError: the file cannot be read, or lacks tensors, which transformers would draw at random.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        opened: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
        )
    except OSError as error:
        raise ModelFileError(f"{gguf} cannot be read ({error}); copy or download it again") from error
    read, loading = opened
    if absent := [*loading["missing_keys"], *loading["mismatched_keys"]]:
        raise ModelFileError(
            f"{gguf} lacks {len(absent)} tensors of its architecture, first {absent[0]}; "
            "download the file again, or another one of the model"
        )
    return read


def _without_mark(read: Any) -> Any:
    """Return a model with the weights of one read from a GGUF file, without the mark of quantization."""
    import torch
    import transformers

    config = read.config
    # The mark that forbids saving, and the folder of the GGUF file.
    for stray in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, stray):
            delattr(config, stray)
    with torch.device("meta"):
        plain: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = read.generation_config
    return plain


def read_converted_tokenizer(made: Path | str) -> PreTrainedTokenizerBase:
    """Read a converted file's tokenizer as it was saved.

    For some model types, such as qwen2 and gemma, `AutoTokenizer` would replace the normalizer and the
    pre-tokenizer of `tokenizer.json` by those of its own class.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(made)


def _convert_tokenizer(gguf: Path, made: Path, config: Any) -> None:
    """Save a GGUF file's tokenizer.

    Raises:
        ModelFileError: the saved tokenizer differs when it is read back.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    correct_tokenizer(gguf, tokenizer, config)
    with _write_errors():
        tokenizer.save_pretrained(made)
    back: Any = read_converted_tokenizer(made)
    rules, saved = (
        (one.backend_tokenizer.to_str(), one.chat_template, one.special_tokens_map)
        for one in (tokenizer, back)
    )
    if saved != rules:
        raise ModelFileError(f"the tokenizer of {gguf} is not read back as it was saved")


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
    """Raise the errors of safetensors and tokenizers about writing as OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if "os error" in str(error).lower() or type(error).__name__ == "SafetensorError":
            raise OSError(str(error)) from error
        raise
