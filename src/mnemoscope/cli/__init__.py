"""The command line: one command for each thing that can be asked of a model.

Nothing heavy is imported before a command runs, so that help and mistakes are told at once. Exit
codes: 0 done, 2 the caller's mistake (told in one line), 130 interrupted, 1 our fault.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mnemoscope import __version__
from mnemoscope.cli import ablate, attribute, links, methods, models, readings, serve, study
from mnemoscope.cli.options import example
from mnemoscope.cli.output import write
from mnemoscope.errors import MnemoscopeError

app = typer.Typer(
    help="Show which neurons of a language model remember a fact.",
    epilog=example("mnemoscope attribute 'The capital of Japan is the city of' --target ' Tokyo'"),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
    },
)
for group in (attribute, links, readings, ablate, methods, study, serve, models):
    app.add_typer(group.commands)


def main() -> None:
    """Run the command line; mistakes are told in one line on stderr."""
    try:
        app()
    except MnemoscopeError as error:
        sys.stderr.write(f"error: {' '.join(str(error).splitlines())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        write(f"mnemoscope {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass
