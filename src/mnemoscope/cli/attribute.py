"""What is asked of a model as it is: `attribute` and `predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnemoscope.cli.options import (
    Against,
    Chat,
    Device,
    Dtype,
    Json,
    ModelName,
    Prompt,
    Revision,
    TargetId,
    Targets,
    TrustRemoteCode,
    example,
    open_model,
    refuse_several,
)
from mnemoscope.cli.output import stdout_kept_clean, write, write_drawn, write_json
from mnemoscope.errors import OptionError

commands = typer.Typer()


@commands.command(
    epilog=example('mnemoscope attribute "The capital of Japan is the city of" --target " Tokyo"')
)
def attribute(  # noqa: PLR0913, PLR0917 - each is an option of the command
    prompt: Prompt,
    target: Targets = None,
    against: Against = None,
    target_id: TargetId = None,
    top: Annotated[int, typer.Option(min=1, help="How many neurons of each kind to find.")] = 100,
    neurons: Annotated[
        Literal["top", "all", "bounds"],
        typer.Option(help="Find the top ones; also score all; or also bound all."),
    ] = "top",
    by: Annotated[
        Literal["direct", "total"],
        typer.Option(help="What the lists are ordered by: the direct score or the total effect."),
    ] = "direct",
    no_effects: Annotated[
        bool, typer.Option("--no-effects", help="Leave the total effects out, which is a little quicker.")
    ] = False,
    query: Annotated[
        bool, typer.Option("--query/--no-query", help="Also find what activates the value neurons.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Write to a .json, .parquet or .html file instead.")
    ] = None,
    chat: Chat = False,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show which parts of a model raise or lower a next token."""
    refuse_several(target=bool(target), target_id=target_id is not None)
    refuse_several(json=json, out=out is not None)
    if by == "total" and no_effects:
        raise OptionError("--by total needs the total effects; leave --no-effects out")
    if out is not None:
        from mnemoscope.view.destination import ATTRIBUTION_ENDINGS, check_destination

        check_destination(out, ATTRIBUTION_ENDINGS)
    with stdout_kept_clean():
        opened = open_model(model, revision, dtype, device, trust_remote_code)
        result = opened.attribute(
            opened.chat_prompt(prompt) if chat else prompt,
            (target or None) if target_id is None else target_id,
            against=against or None,
            top=top,
            neurons=neurons,
            by=by,
            effects=not no_effects,
            query=query,
            progress=sys.stderr.isatty(),
        )
    if json:
        write_json(result.to_json())
    elif out is not None:
        write(f"saved {result.save(out)}\n")
    else:
        from mnemoscope.view.terminal import render_attribution

        write_drawn(lambda console: render_attribution(result, console))


@commands.command(epilog=example('mnemoscope predict "The capital of France is" --top 5'))
def predict(  # noqa: PLR0913, PLR0917 - each is an option of the command
    prompt: Prompt,
    top: Annotated[int, typer.Option(min=1, help="How many tokens.")] = 10,
    chat: Chat = False,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show the likeliest next tokens."""
    with stdout_kept_clean():
        opened = open_model(model, revision, dtype, device, trust_remote_code)
        prediction = opened.predict(opened.chat_prompt(prompt) if chat else prompt, top)
    if json:
        write_json(prediction.to_json())
    else:
        from mnemoscope.view.terminal import render_prediction

        write_drawn(lambda console: render_prediction(prediction, console))
