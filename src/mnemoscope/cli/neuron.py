"""`neuron`: the tokens that an FFN neuron promotes and demotes."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

import typer

from mnemoscope.cli.command import command
from mnemoscope.cli.options import Json, ModelOptions
from mnemoscope.cli.output import stdout_kept_clean, write_result
from mnemoscope.errors import OptionError

commands = typer.Typer()


@command(commands, "mnemoscope neuron 14.813 --through 23.4")
def neuron(
    *,
    name: Annotated[str, typer.Argument(metavar="LAYER.NEURON", help="Both count from 0, as in 24.1005.")],
    top: Annotated[int, typer.Option(min=1, help="Number of tokens in each direction.")] = 10,
    through: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER.HEAD", help="A head above it, whose value-output map is applied to the neuron."
        ),
    ] = None,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Show the tokens that an FFN neuron promotes and demotes.

    With --through the neuron's vector is first sent through a head above it.
    """
    layer, index = two_numbers(name, "neuron", "layer.neuron, such as 24.1005")
    head = None if through is None else layer_and_head(through)
    with stdout_kept_clean():
        from mnemoscope.report.terminal.vocabulary import render_neuron

        reading = model.open().neuron_tokens(layer, index, top, head)
    write_result(json, reading.to_json, partial(render_neuron, reading))


def layer_and_head(name: str) -> tuple[int, int]:
    """Return layer and head of a name such as 23.4.

    Raises:
        OptionError: no such name.
    """
    return two_numbers(name, "head", "layer.head, such as 23.4")


def two_numbers(name: str, kind: str, form: str) -> tuple[int, int]:
    """Return the two numbers of a part's name.

    Raises:
        OptionError: the name has another form.
    """
    if not re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", name):
        raise OptionError(f"{name!r} names no {kind}; write {form}")
    layer, index = name.split(".")
    return int(layer), int(index)
