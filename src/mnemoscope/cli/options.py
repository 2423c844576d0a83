"""The options that several commands share, and what is checked of them before a model is opened."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnemoscope._arguments import device_name, dtype_name
from mnemoscope.cli.output import tell
from mnemoscope.errors import OptionError, PromptError

if TYPE_CHECKING:
    from mnemoscope.api import Model
    from mnemoscope.model.tokens import Prompt as EncodedPrompt


def as_utf8(text: str) -> str:
    """Decode an argument as UTF-8 where Python could not decode its bytes in the terminal's locale."""
    return os.fsencode(text).decode("utf-8", "surrogateescape") if _UNDECODED.search(text) else text


def each_as_utf8(texts: list[str] | None) -> list[str] | None:
    """Decode the texts of an option that may be repeated, each with `as_utf8`."""
    return None if texts is None else [as_utf8(text) for text in texts]


def _one_as_utf8(text: str | None) -> str | None:
    return None if text is None else as_utf8(text)


def prompt_given(text: str | None) -> str | None:
    """Return a PROMPT argument as text; for `-`, read stdin."""
    return _from_stdin() if text == "-" else _one_as_utf8(text)


def _from_stdin() -> str:
    """Read a prompt from stdin, without the newline at its end.

    Raises:
        PromptError: it is not UTF-8.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"the prompt on stdin is not UTF-8 (byte {error.start}); convert it, with iconv for instance"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


# Bytes that Python could not decode stand in arguments as these.
_UNDECODED = re.compile("[\udc80-\udcff]")

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def _dtype(dtype: str | None) -> str | None:
    return dtype_name(dtype)


def _device(device: str | None) -> str | None:
    return device_name(device)


Prompt = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT",
        help="The text before the token in question, in quotes; - reads it from stdin.",
        callback=prompt_given,
    ),
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Put the prompt into the model's chat template, as said by a user.")
]
NoSpecialTokens = Annotated[
    bool,
    typer.Option("--no-special-tokens", help="Put no special token, such as BOS, in front of the prompt."),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="The next token as text, with the space in front that most words have; the model's own choice "
        "if not given.",
        callback=_one_as_utf8,
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="TEXT",
        help="The next token as text, with the space in front that most words have; several times for any "
        "of several; the model's own choice if not given.",
        callback=each_as_utf8,
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="A token to compare the target with, in log-odds; several times for several.",
        callback=each_as_utf8,
    ),
]
AgainstIds = Annotated[
    list[int] | None,
    typer.Option(
        "--against-id",
        metavar="ID",
        min=0,
        help="A token to compare the target with, by its id; several times for several.",
    ),
]
TargetId = Annotated[int | None, typer.Option(min=0, help="The next token by its id instead of its text.")]
TargetIds = Annotated[
    list[int] | None,
    typer.Option(
        "--target-id",
        metavar="ID",
        min=0,
        help="The next token by its id instead of its text; several times for any of several.",
    ),
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model", help="'demo', a .gguf file, or the folder or Hugging Face id of a model or PEFT adapter."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face repository.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Type of the weights: float32, bfloat16 or float16; the checkpoint's own if not given.",
        callback=_dtype,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Such as cpu, cuda, cuda:1 or mps; cpu if not given. auto offloads what does not "
        "fit on the GPU to memory or disk.",
        callback=_device,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="CPU threads; if not given OMP_NUM_THREADS, or else the CPUs that this process may use. "
        "Fewer are quicker on a busy machine.",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def example(command: str) -> str:
    """The end of a help text; the mark keeps its lines from being filled anew."""
    return f"\b\nExample:\n  {command}"


def refuse_several(**given: bool) -> None:
    """Options that exclude each other, by the names of their variables.

    Raises:
        OptionError: more than one of them is given.
    """
    names = [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise OptionError(f"{' and '.join(names)} exclude each other; give one of them")


def read_prompt(model: Model, prompt: str, chat: bool, no_special_tokens: bool) -> EncodedPrompt:
    """Tokenise the prompt of a command, in the model's chat template where that is asked for."""
    if chat:
        return model.chat_prompt(prompt)
    return model.prompt(prompt, add_special_tokens=not no_special_tokens)


def tell_warning(text: str) -> None:
    """Write a result's warning to stderr, if it has one."""
    if text:
        tell(f"warning: {text}")


def set_threads(threads: int | None) -> None:
    """Let torch compute in so many threads; None takes what torch takes, within the CPUs it may use here.

    Raises:
        OptionError: the machine has fewer CPUs.
    """
    if threads is not None:
        check_threads(threads)
    import torch

    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = min(torch.get_num_threads(), usable_cpus())
    if threads is not None:
        torch.set_num_threads(threads)


def check_threads(threads: int) -> None:
    """Refuse more threads than CPUs: they only wait for each other, and with many more the process dies.

    Raises:
        OptionError: the machine has fewer CPUs.
    """
    if threads > (n_cpus := os.cpu_count() or 1):
        raise OptionError(f"--threads is {threads}, but this machine has {n_cpus} CPUs; give at most so many")


def usable_cpus() -> int:
    """Count the CPUs that this process may use, by its affinity and the quota of a Linux container."""
    affinity = getattr(os, "sched_getaffinity", None)
    n_cpus = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
    try:
        quota, period = _CPU_QUOTA.read_text(encoding="ascii").split()
        return max(1, min(n_cpus, int(quota) // int(period)))
    except (OSError, ValueError):  # no such container, or "max": no quota
        return n_cpus


def open_model(
    name: str,
    revision: str | None,
    dtype: str | None,
    device: str | None,
    trust: bool,
    threads: int | None,
) -> Model:
    """Open a model to run in so many threads; where the demo model must be made first, that is told."""
    set_threads(threads)
    from mnemoscope.api import load

    if name == "demo":
        from mnemoscope.model.demo import ensure_demo

        ensure_demo(report=tell)
    return load(name, revision=revision, dtype=dtype, device=device, trust_remote_code=trust)
