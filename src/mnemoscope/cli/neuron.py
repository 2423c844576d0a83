"""`neuron` and `head`: their vectors as tokens, and the texts in which a neuron is active."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.cli.command import OUTPUT, command
from mnemoscope.cli.options import Json, ModelOptions, PromptOptions, as_utf8, refuse_several
from mnemoscope.cli.output import shows_progress, stdout_kept_clean, write, write_result
from mnemoscope.errors import OptionError

commands = typer.Typer()

_WINDOW = 64


@command(commands, "mnemoscope neuron 14.813 --through 23.4")
def neuron(  # noqa: PLR0913 - each is an option of the command
    *,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="LAYER.NEURON, both from 0, as in 24.1005; with --examples also an attention neuron, "
            "LAYER.HEAD.DIM.",
        ),
    ],
    top: Annotated[
        int,
        typer.Option(min=1, help="Number of tokens in each direction; with --examples, of texts in a group."),
    ] = 10,
    through: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER.HEAD", help="A head above it, whose value-output map is applied to the neuron."
        ),
    ] = None,
    examples: Annotated[
        bool,
        typer.Option("--examples", help="Show the texts of a corpus in which the neuron is most active."),
    ] = False,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|hub:NAME",
            help="With --examples: a .txt, .jsonl, .json, .csv or .parquet file, or hub:owner/name; the "
            "package's own texts if not given.",
            callback=as_utf8,
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=1, help="With --examples: tokens that are run together.", show_default=str(_WINDOW)),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --examples: write to a .json or .csv file instead.", rich_help_panel=OUTPUT),
    ] = None,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Show the tokens that an FFN neuron promotes and demotes.

    With --through the neuron's vector is first sent through a head above it. With --examples it shows instead
    where a neuron is active: the texts with the highest and the lowest activations and, in gated FFNs, the
    best for each combination of signs of gate and up pre-activation.
    """
    refuse_several(examples=examples, through=through is not None)
    refuse_several(json=json, out=out is not None)
    if examples:
        _show_examples(name, corpus, top, window or _WINDOW, out, json, model)
        return
    for option, value in (("corpus", corpus), ("window", window), ("out", out)):
        if value is not None:
            raise OptionError(f"--{option} is for --examples; add that, or leave --{option} out")
    layer, index = two_numbers(name, "neuron", "layer.neuron, such as 24.1005")
    head = None if through is None else layer_and_head(through)
    with stdout_kept_clean():
        from mnemoscope.report.terminal.vocabulary import render_neuron

        reading = model.open().neuron_tokens(layer, index, top, head)
    write_result(json, reading.to_json, partial(render_neuron, reading))


def _show_examples(
    name: str,
    corpus: str | None,
    top: int,
    window: int,
    out: Path | None,
    json: bool,
    model: ModelOptions,
) -> None:
    if out is not None:
        from mnemoscope._io import PLAIN_ENDINGS, check_destination

        check_destination(out, PLAIN_ENDINGS)
    with stdout_kept_clean():
        from mnemoscope.report.terminal.vocabulary import render_examples
        from mnemoscope.results.parts import neuron_named

        chosen = neuron_named(name)
        opened = model.open()
        result = opened.neuron_examples(chosen, corpus, top=top, window=window, progress=shows_progress())
    if out is not None:
        write(f"saved {result.save(out)}\n")
    else:
        write_result(json, result.to_json, partial(render_examples, result, rows=top))


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
