"""Value neurons and what activates them, several steps back: `links`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.cli.options import (
    Against,
    AgainstIds,
    Chat,
    Device,
    Dtype,
    Json,
    ModelName,
    NoSpecialTokens,
    Prompt,
    Revision,
    TargetIds,
    Targets,
    Threads,
    TrustRemoteCode,
    example,
    open_model,
    read_prompt,
    refuse_several,
    tell_warning,
)
from mnemoscope.cli.output import stdout_kept_clean, write, write_drawn, write_json
from mnemoscope.errors import OptionError

commands = typer.Typer()


@commands.command(epilog=example('mnemoscope links "The capital of Japan is the city of" --target " Tokyo"'))
def links(  # noqa: PLR0913, PLR0917 - each is an option of the command
    prompt: Prompt,
    target: Targets = None,
    against: Against = None,
    against_id: AgainstIds = None,
    target_id: TargetIds = None,
    values: Annotated[int, typer.Option(help="How many value neurons of each kind to begin with.")] = 5,
    depth: Annotated[int, typer.Option(help="How many steps to go back from them.")] = 2,
    width: Annotated[int, typer.Option(help="How many links to follow of each part.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(help="Write to a .json file, or to a .graphml file for Gephi or Cytoscape, instead."),
    ] = None,
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
    """Show what activates the value neurons of a next token, and what activates that in turn."""
    refuse_several(target=bool(target), target_id=bool(target_id))
    refuse_several(against=bool(against), against_id=bool(against_id))
    refuse_several(chat=chat, no_special_tokens=no_special_tokens)
    refuse_several(json=json, out=out is not None)
    _check_counts(values=values, depth=depth, width=width)
    if out is not None:
        from mnemoscope._io import LINKS_ENDINGS, check_destination

        check_destination(out, LINKS_ENDINGS)
    with stdout_kept_clean():
        opened = open_model(model, revision, dtype, device, trust_remote_code, threads)
        result = opened.attribute(
            read_prompt(opened, prompt, chat, no_special_tokens),
            target or target_id or None,
            against=against or against_id or None,
            top=values,
            effects=False,
            suppressing=False,
            query=False,
        )
        tell_warning(result.targets.warning)
        found = opened.query_graph(result, values=values, depth=depth, width=width)
    if json:
        write_json(found.to_json())
    elif out is not None:
        from mnemoscope.report.export import save_links

        write(f"saved {save_links(found, out)}\n")
    else:
        from mnemoscope.report.terminal.query import render_links

        write_drawn(lambda console: render_links(found, console))


def _check_counts(**counts: int) -> None:
    for name, number in counts.items():
        if number < 1:
            raise OptionError(f"--{name} is {number}; give 1 or more")
