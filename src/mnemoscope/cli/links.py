"""`links`: the query graph of a next token."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.cli.command import OUTPUT, command
from mnemoscope.cli.options import (
    Json,
    ModelOptions,
    PromptOptions,
    TargetOptions,
    refuse_several,
    tell_warning,
)
from mnemoscope.cli.output import stdout_kept_clean, write, write_result
from mnemoscope.errors import OptionError

commands = typer.Typer()


@command(commands, 'mnemoscope links "The capital of Japan is the city of" --target " Tokyo"')
def links(
    *,
    targets: TargetOptions,
    values: Annotated[int, typer.Option(help="Number of value neurons of each kind to begin with.")] = 5,
    depth: Annotated[int, typer.Option(help="Number of steps back from them.")] = 2,
    width: Annotated[int, typer.Option(help="Number of links to follow from each part.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write to a .json or .csv file, or to a .graphml file for Gephi or Cytoscape, instead.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    prompt: PromptOptions,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Show what activates the value neurons of a next token.

    The query graph goes on to what activates those parts in turn.
    """
    refuse_several(json=json, out=out is not None)
    for name, number in (("values", values), ("depth", depth), ("width", width)):
        if number < 1:
            raise OptionError(f"--{name} is {number}; give 1 or more")
    if out is not None:
        from mnemoscope._io import LINKS_ENDINGS, check_destination

        check_destination(out, LINKS_ENDINGS)
    with stdout_kept_clean():
        from mnemoscope.report.terminal.query import render_links

        opened = model.open()
        result = opened.attribute(
            prompt.read(opened),
            targets.answers,
            against=targets.others,
            top=values,
            effects=False,
            suppressing=False,
            query=False,
        )
        tell_warning(result.targets.warning)
        graph = opened.query_graph(result, values=values, depth=depth, width=width)
        saved = None
        if out is not None:
            saved = graph.save(out)
    if saved is not None:
        write(f"saved {saved}\n")
    else:
        write_result(json, graph.to_json, partial(render_links, graph))
