"""The options that several commands share, and what is checked of them before a model is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mnemoscope.cli.output import tell
from mnemoscope.errors import OptionError

if TYPE_CHECKING:
    from mnemoscope.api import Model

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="The text before the token in question.")]
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
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Type of the weights; the checkpoint's own if not given."),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Such as cpu or cuda; cpu if not given. auto leaves what does not fit in memory or on disk."
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


def open_model(name: str, revision: str | None, dtype: str | None, device: str | None, trust: bool) -> Model:
    """Open a model; the first time the demo model is wanted it tells how it is made."""
    from mnemoscope.api import load

    if name == "demo":
        from mnemoscope.model.demo import ensure_demo

        ensure_demo(report=tell)
    return load(name, revision=revision, dtype=dtype, device=device, trust_remote_code=trust)
