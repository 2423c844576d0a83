"""What parts say in the vocabulary: `neuron` and `head`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from mnemoscope.cli.options import (
    Chat,
    Device,
    Dtype,
    Json,
    ModelName,
    NoSpecialTokens,
    Prompt,
    Revision,
    Threads,
    TrustRemoteCode,
    example,
    open_model,
    read_prompt,
    refuse_several,
)
from mnemoscope.cli.output import stdout_kept_clean, write_drawn, write_json
from mnemoscope.errors import OptionError

commands = typer.Typer()


@commands.command(epilog=example("mnemoscope neuron 14.813 --through 23.4"))
def neuron(  # noqa: PLR0913, PLR0917 - each is an option of the command
    name: Annotated[str, typer.Argument(metavar="LAYER.NEURON", help="Both count from 0, as in 24.1005.")],
    top: Annotated[int, typer.Option(min=1, help="How many tokens of each end.")] = 10,
    through: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER.HEAD", help="A head above it: read what its value-output map makes of the neuron."
        ),
    ] = None,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show the tokens that an FFN neuron promotes and demotes, itself or through a head."""
    layer, index = _numbers(name, "neuron", "layer.neuron, such as 24.1005")
    head = None if through is None else _layer_and_head(through)
    with stdout_kept_clean():
        opened = open_model(model, revision, dtype, device, trust_remote_code, threads)
        reading = opened.neuron_tokens(layer, index, top, head)
    if json:
        write_json(reading.to_json())
    else:
        from mnemoscope.report.terminal.vocabulary import render_neuron

        write_drawn(lambda console: render_neuron(reading, console))


@commands.command(epilog=example('mnemoscope head 23.4 "The capital of Japan is the city of"'))
def head(  # noqa: PLR0913, PLR0917 - each is an option of the command
    name: Annotated[str, typer.Argument(metavar="LAYER.HEAD", help="Both count from 0, as in 23.4.")],
    prompt: Prompt,
    top: Annotated[int, typer.Option(min=1, help="How many tokens of each list.")] = 5,
    chat: Chat = False,
    no_special_tokens: NoSpecialTokens = False,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show what a head meets, looks for and brings at each position, as tokens."""
    layer, index = _layer_and_head(name)
    refuse_several(chat=chat, no_special_tokens=no_special_tokens)
    with stdout_kept_clean():
        opened = open_model(model, revision, dtype, device, trust_remote_code, threads)
        reading = opened.head_tokens(read_prompt(opened, prompt, chat, no_special_tokens), layer, index, top)
    if json:
        write_json(reading.to_json())
    else:
        from mnemoscope.report.terminal.vocabulary import render_head

        write_drawn(lambda console: render_head(reading, console))


def _layer_and_head(name: str) -> tuple[int, int]:
    return _numbers(name, "head", "layer.head, such as 23.4")


def _numbers(name: str, kind: str, written: str) -> tuple[int, int]:
    if not re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", name):
        raise OptionError(f"{name!r} names no {kind}; write {written}")
    layer, index = name.split(".")
    return int(layer), int(index)
