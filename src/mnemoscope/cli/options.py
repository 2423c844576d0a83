"""The options that several commands share, and what is checked of them before a model is opened."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnemoscope.cli.output import tell
from mnemoscope.errors import OptionError
from mnemoscope.model.hardware import device_name, dtype_name

if TYPE_CHECKING:
    from mnemoscope.api import Model

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def prompt_text(prompt: str | None) -> str | None:
    """The prompt as given; of `-` what stdin has, without the newline at its end."""
    return sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt


def _dtype(dtype: str | None) -> str | None:
    return dtype_name(dtype)


def _device(device: str | None) -> str | None:
    return device_name(device)


Prompt = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT",
        help="The text before the token in question, in quotes; - reads it from stdin.",
        callback=prompt_text,
    ),
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Put the prompt into the model's chat template, as said by a user.")
]
Target = Annotated[
    str | None,
    typer.Option(help="The next token, leading space included; the model's own choice if not given."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="TEXT",
        help="The next token, leading space included; several times for any of several; the model's own "
        "choice if not given.",
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="A token to compare the target with, in log-odds; several times for several.",
    ),
]
TargetId = Annotated[int | None, typer.Option(min=0, help="The next token by its id instead of its text.")]
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
    """How many CPUs this process may use: within its affinity, and in a Linux container within its quota."""
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
