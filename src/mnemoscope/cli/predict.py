"""`predict`: the likeliest next tokens."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from mnemoscope.cli.command import command
from mnemoscope.cli.options import Json, ModelOptions, PromptOptions
from mnemoscope.cli.output import stdout_kept_clean, write_result

commands = typer.Typer()


@command(commands, 'mnemoscope predict "The capital of France is" --top 5')
def predict(
    *,
    top: Annotated[int, typer.Option(min=1, help="Number of tokens.")] = 10,
    prompt: PromptOptions,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Show the likeliest next tokens."""
    with stdout_kept_clean():
        from mnemoscope.report.terminal.vocabulary import render_prediction

        opened = model.open()
        prediction = opened.predict(prompt.read(opened), top)
    write_result(json, prediction.to_json, partial(render_prediction, prediction))
