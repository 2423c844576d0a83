"""`head`: a head's input, key and value at each position, as tokens."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from mnemoscope.cli.command import command
from mnemoscope.cli.neuron import layer_and_head
from mnemoscope.cli.options import Json, ModelOptions, PromptOptions
from mnemoscope.cli.output import stdout_kept_clean, write_result

commands = typer.Typer()


@command(commands, 'mnemoscope head 23.4 "The capital of Japan is the city of"')
def head(
    *,
    name: Annotated[str, typer.Argument(metavar="LAYER.HEAD", help="Both count from 0, as in 23.4.")],
    top: Annotated[int, typer.Option(min=1, help="Number of tokens in each list.")] = 5,
    prompt: PromptOptions,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Show a head's input, key and value at each position, as tokens."""
    layer, index = layer_and_head(name)
    with stdout_kept_clean():
        from mnemoscope.report.terminal.vocabulary import render_head

        opened = model.open()
        reading = opened.head_tokens(prompt.read(opened), layer, index, top)
    write_result(json, reading.to_json, partial(render_head, reading))
