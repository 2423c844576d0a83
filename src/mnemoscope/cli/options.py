"""Options that several commands share."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mnemoscope._arguments import check_model_path, device_name, dtype_name
from mnemoscope.cli.command import MODEL, OUTPUT, PROMPT, TARGET
from mnemoscope.cli.output import explain, stage, tell, warn
from mnemoscope.errors import OptionError, PromptError

if TYPE_CHECKING:
    from mnemoscope.api import Model
    from mnemoscope.model.tokens import Prompt as EncodedPrompt

# Surrogates that stand in arguments for bytes that Python could not decode.
_UNDECODED = re.compile("[\udc80-\udcff]")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def as_utf8(text: str | None) -> str | None:
    """Decode an argument as UTF-8 where Python could not decode its bytes in the terminal's locale."""
    if text is None or not _UNDECODED.search(text):
        return text
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def each_as_utf8(texts: list[str] | None) -> list[str | None] | None:
    """Decode the texts of an option that may be repeated, each with `as_utf8`."""
    return None if texts is None else [as_utf8(text) for text in texts]


def read_prompt(text: str | None) -> str | None:
    """Return a PROMPT argument as text; `-` reads stdin, without the newline at its end.

    Raises:
        PromptError: stdin cannot be read, or is not UTF-8.
    """
    try:
        return _decoded(sys.stdin.buffer.read(), "on stdin") if text == "-" else as_utf8(text)
    except OSError as error:
        raise PromptError(f"cannot read stdin: {error.strerror or error}; give PROMPT in quotes") from error


def read_prompt_file(path: str | None) -> str | None:
    """Return the text of a file, without the newline at its end.

    Raises:
        PromptError: the file cannot be read, or is not UTF-8.
    """
    if path is None:
        return None
    try:
        return _decoded(Path(path).expanduser().read_bytes(), f"in {path}")
    except OSError as error:
        raise PromptError(f"cannot read {path}: {error.strerror or error}; check the name") from error


def _decoded(given: bytes, where: str) -> str:
    try:
        return given.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"the prompt {where} is not UTF-8 (byte {error.start}); convert it, with iconv for instance"
        ) from error


def refuse_several(**given: object) -> None:
    """Refuse options that exclude each other, given by the names of their variables.

    Raises:
        OptionError: more than one of them is given.
    """
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(names) > 1:
        raise OptionError(f"{' and '.join(names)} exclude each other; give one of them")


def tell_warning(text: str) -> None:
    """Write a result's warning to stderr, if it has one."""
    if text:
        warn(f"warning: {text}")


def set_threads(threads: int | None) -> None:
    """Set the number of torch's threads; None takes torch's own, within the CPUs this process may use.

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
    """Refuse more threads than CPUs, which only wait for each other and with many more end the process.

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


def _dtype(name: str | None) -> str | None:
    return dtype_name(name)


def _device(name: str | None) -> str | None:
    return device_name(name)


ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        envvar="MNEMOSCOPE_MODEL",
        help="'demo', a .gguf file, or the folder or Hugging Face id of a model or PEFT adapter.",
        rich_help_panel=MODEL,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch, tag or commit of a Hugging Face repository.", rich_help_panel=MODEL),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        envvar="MNEMOSCOPE_DTYPE",
        help="Type of the weights: float32, bfloat16 or float16; the checkpoint's own if not given.",
        callback=_dtype,
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        envvar="MNEMOSCOPE_DEVICE",
        help="Such as cpu, cuda, cuda:1 or mps; cpu if not given. auto offloads layers that do not fit on "
        "the GPU to CPU memory or disk.",
        callback=_device,
        rich_help_panel=MODEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="CPU threads; if not given OMP_NUM_THREADS, or else the CPUs that this process may use. "
        "Fewer are quicker on a busy machine.",
        rich_help_panel=MODEL,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run code that comes with the model.", rich_help_panel=MODEL),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object; an error too, on stderr.", rich_help_panel=OUTPUT),
]
ControlsFrom = Annotated[
    Literal["same layers", "any layer"],
    typer.Option(
        help="Layers that random controls are drawn from. Where a layer has too few other parts, 'any layer' "
        "takes the rest elsewhere and 'same layers' refuses."
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model of a command, and the hardware it runs on."""

    model: ModelName = "demo"
    revision: Revision = None
    dtype: Dtype = None
    device: Device = None
    threads: Threads = None
    trust_remote_code: TrustRemoteCode = False

    def __post_init__(self) -> None:
        """Refuse a path without a model before anything heavy is imported."""
        check_model_path(self.model)

    def open(self) -> Model:
        """Open the model; the demo model is made first where it is missing, with lines on stderr."""
        stage(f"opening {self.model}")
        set_threads(self.threads)
        from mnemoscope.api import load

        if self.model == "demo":
            from mnemoscope.model.demo import ensure_demo

            ensure_demo(report=tell)
        begun = time.perf_counter()
        opened = load(
            self.model,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )
        explain(f"opened {self.model} in {time.perf_counter() - begun:.1f} s: {opened!r}")
        stage("computing")
        return opened


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Encoding of a prompt."""

    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Put the prompt into the model's chat template, as said by a user.",
            rich_help_panel=PROMPT,
        ),
    ] = False
    no_special_tokens: Annotated[
        bool,
        typer.Option(
            "--no-special-tokens",
            help="Put no special token, such as BOS, in front of the prompt.",
            rich_help_panel=PROMPT,
        ),
    ] = False

    def __post_init__(self) -> None:
        """Refuse both at once, as a chat template has special tokens of its own."""
        refuse_several(chat=self.chat, no_special_tokens=self.no_special_tokens)

    def encode(self, model: Model, prompt: str) -> EncodedPrompt:
        """Encode a prompt, in the model's chat template with `--chat`."""
        if self.chat:
            return model.chat_prompt(prompt)
        return model.prompt(prompt, add_special_tokens=not self.no_special_tokens)


@dataclass(frozen=True, kw_only=True)
class PromptOptions(ChatOptions):
    """The prompt of a command."""

    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="The text before the token in question, in quotes; - reads it from stdin.",
            callback=read_prompt,
            show_default=False,
        ),
    ] = None
    prompt_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Read the prompt from a file (UTF-8) instead, without the newline at its end.",
            callback=read_prompt_file,
            rich_help_panel=PROMPT,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse two prompts, and none."""
        super().__post_init__()
        if self.prompt is not None and self.prompt_file is not None:
            raise OptionError("PROMPT and --prompt-file exclude each other; give one of them")
        if self.prompt is None and self.prompt_file is None:
            raise OptionError("there is no prompt; give PROMPT in quotes, - to read stdin, or --prompt-file")

    @property
    def text(self) -> str:
        """The prompt as given."""
        return (self.prompt if self.prompt_file is None else self.prompt_file) or ""

    def read(self, model: Model) -> EncodedPrompt:
        """Encode the prompt."""
        return self.encode(model, self.text)


@dataclass(frozen=True, kw_only=True)
class TargetOption:
    """One target token."""

    target: Annotated[
        str | None,
        typer.Option(
            help="The next token as text, with the space in front that most words have; the model's own "
            "choice if not given.",
            callback=as_utf8,
            rich_help_panel=TARGET,
        ),
    ] = None
    target_id: Annotated[
        int | None,
        typer.Option(
            metavar="ID",
            min=0,
            help="The next token by its id instead of its text.",
            rich_help_panel=TARGET,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse both at once."""
        refuse_several(target=self.target is not None, target_id=self.target_id is not None)

    @property
    def answer(self) -> str | int | None:
        """The token as text or id; None for the model's own choice."""
        return self.target if self.target_id is None else self.target_id


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """Target tokens, and the tokens they are compared with."""

    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="TEXT",
            help="The next token as text, with the space in front that most words have; several times for "
            "any of several; the model's own choice if not given.",
            callback=each_as_utf8,
            rich_help_panel=TARGET,
        ),
    ] = None
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="An answer to compare the target with, in log-odds; several times for several tokens.",
            callback=each_as_utf8,
            rich_help_panel=TARGET,
        ),
    ] = None
    against_id: Annotated[
        list[int] | None,
        typer.Option(
            metavar="ID",
            min=0,
            rich_help_panel=TARGET,
            help="A token to compare the target with, by its id; several times for several.",
        ),
    ] = None
    target_id: Annotated[
        list[int] | None,
        typer.Option(
            metavar="ID",
            min=0,
            rich_help_panel=TARGET,
            help="The next token by its id instead of its text; several times for any of several.",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse text and ids at once."""
        refuse_several(target=self.target, target_id=self.target_id)
        refuse_several(against=self.against, against_id=self.against_id)

    @property
    def answers(self) -> list[str] | list[int] | None:
        """Target tokens as texts or ids; None for the model's own choice."""
        return self.target or self.target_id or None

    @property
    def others(self) -> list[str] | list[int] | None:
        """Tokens that the target is compared with; None for log probability."""
        return self.against or self.against_id or None
