"""`compare`: the parts of a model in the predictions of two prompts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.attribution.options import DEFAULTS
from mnemoscope.cli.command import OUTPUT, TARGET, command
from mnemoscope.cli.options import (
    ChatOptions,
    Json,
    ModelOptions,
    each_as_utf8,
    read_prompt,
    refuse_several,
    tell_warning,
)
from mnemoscope.cli.output import stdout_kept_clean, tell, write, write_result

commands = typer.Typer()


def _target(side: str) -> typer.models.OptionInfo:
    return typer.Option(
        metavar="TEXT",
        help=f"The next token of prompt {side}, with the space in front that most words have; several times "
        "for any of several; the model's own choice if not given.",
        callback=each_as_utf8,
        rich_help_panel=TARGET,
    )


def _against(side: str) -> typer.models.OptionInfo:
    return typer.Option(
        metavar="TEXT",
        help=f"A token to compare the target of prompt {side} with, in log-odds; several times for several.",
        callback=each_as_utf8,
        rich_help_panel=TARGET,
    )


def _by_id(option: str) -> typer.models.OptionInfo:
    return typer.Option(
        metavar="ID", min=0, help=f"The same as {option} by the token's id.", rich_help_panel=TARGET
    )


def _prompt(name: str) -> typer.models.ArgumentInfo:
    return typer.Argument(
        metavar=name,
        help="The text before the token in question; - in place of one prompt reads it from stdin.",
        callback=read_prompt,
    )


@command(
    commands,
    'mnemoscope compare "Tokyo is in" "Beijing is in" --target-a " Japan" --target-b " China"',
)
def compare(  # noqa: PLR0913 - each is an option of the command
    *,
    prompt_a: Annotated[str, _prompt("PROMPT_A")],
    prompt_b: Annotated[str, _prompt("PROMPT_B")],
    target_a: Annotated[list[str] | None, _target("A")] = None,
    target_a_id: Annotated[list[int] | None, _by_id("--target-a")] = None,
    target_b: Annotated[list[str] | None, _target("B")] = None,
    target_b_id: Annotated[list[int] | None, _by_id("--target-b")] = None,
    against_a: Annotated[list[str] | None, _against("A")] = None,
    against_a_id: Annotated[list[int] | None, _by_id("--against-a")] = None,
    against_b: Annotated[list[str] | None, _against("B")] = None,
    against_b_id: Annotated[list[int] | None, _by_id("--against-b")] = None,
    top: Annotated[
        int,
        typer.Option(min=1, help="Number of neurons to list of each kind and direction for each prompt."),
    ] = DEFAULTS.top,
    out: Annotated[
        Path | None,
        typer.Option(help="Write to a .json, .csv or .html file instead.", rich_help_panel=OUTPUT),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write a report, one HTML page.", rich_help_panel=OUTPUT),
    ] = None,
    chat: ChatOptions,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Compare a model's parts in the predictions of two prompts.

    Rows are ordered by the difference, B less A. `circuit compare` compares methods that find circuits.
    """
    refuse_several(target_a=target_a, target_a_id=target_a_id)
    refuse_several(target_b=target_b, target_b_id=target_b_id)
    refuse_several(against_a=against_a, against_a_id=against_a_id)
    refuse_several(against_b=against_b, against_b_id=against_b_id)
    refuse_several(json=json, out=out is not None)
    from mnemoscope._io import COMPARISON_ENDINGS, check_destination

    for path, endings in ((out, COMPARISON_ENDINGS), (report, (".html",))):
        if path is not None:
            check_destination(path, endings)
    with stdout_kept_clean():
        from mnemoscope.report.terminal.comparison import render_comparison

        opened = model.open()
        result = opened.compare(
            chat.encode(opened, prompt_a),
            chat.encode(opened, prompt_b),
            target_a=target_a or target_a_id or None,
            target_b=target_b or target_b_id or None,
            against_a=against_a or against_a_id or None,
            against_b=against_b or against_b_id or None,
            top=top,
        )
        for side in (result.a, result.b):
            tell_warning(side.targets.warning)
        if report is not None:
            tell(f"saved {result.save(report)}")
        saved = None if out is None else result.save(out)
    if saved is not None:
        write(f"saved {saved}\n")
    else:
        write_result(json, result.to_json, partial(render_comparison, result))
