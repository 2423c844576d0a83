"""The command line: one module for each command, or for two that go together.

No heavy package is imported before a command runs, so that help and mistakes print at once. Exit codes: 0
done, 1 a bug, 2 a mistake of the caller (one line on stderr, as JSON with `--json`), 130 interrupted.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Annotated, Any

import typer

from mnemoscope import __version__
from mnemoscope.cli import (
    ablate,
    attribute,
    cache,
    circuit,
    compare,
    links,
    methods,
    models,
    neuron,
    predict,
    serve,
    study,
)
from mnemoscope.cli.command import example
from mnemoscope.cli.output import loudness, open_closed_streams, output_fault, set_loudness, write
from mnemoscope.errors import MnemoscopeError

# Base class of click's errors about the command line, which typer does not export.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="Show which neurons of a language model carry a fact.",
    epilog=example("mnemoscope attribute 'The capital of Japan is the city of' --target ' Tokyo'"),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
    },
)
for group in (
    attribute,
    compare,
    predict,
    links,
    neuron,
    ablate,
    circuit,
    methods,
    study,
    serve,
    models,
    cache,
):
    app.add_typer(group.commands)


def main() -> None:
    """Run the command line; mistakes print one line on stderr, as JSON with `--json`."""
    set_loudness(quiet=False, verbose=False)
    open_closed_streams()
    try:
        code = _ended()
    except OSError:
        fault = output_fault()
        if not fault:
            raise
        code = _refused(fault)
    sys.exit(code)


def _ended() -> int:
    """Run the command line, and return the exit code."""
    try:
        code = app(prog_name="mnemoscope", standalone_mode=False)
    except MnemoscopeError as error:
        if loudness.verbose:
            traceback.print_exception(error)
        return _refused(str(error))
    except _UsageError as error:
        return _misused(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return code if isinstance(code, int) else 0


def _misused(error: Any) -> int:
    """Print a usage error in one line, and return the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        error.show()
        return 2
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx
    if message.startswith("Got unexpected extra argument") and any(
        parameter.name == "prompt" for parameter in context.command.params
    ):
        return _refused(
            f"the prompt must be one argument, but more words follow {context.params['prompt']!r}",
            "put the whole prompt in quotes",
        )
    called = context.command_path if context else "mnemoscope"
    return _refused(f"{message[:1].lower()}{message[1:]}", f"`{called} --help` shows how to call it")


def _refused(message: str, remedy: str | None = None) -> int:
    """Print an error and its remedy (None: the message names it), and return the exit code."""
    message = " ".join(message.splitlines())
    arguments = sys.argv[1:]
    if "--json" in arguments[: arguments.index("--") if "--" in arguments else None]:
        # The errors of the web API have this form.
        told = {"error": message} | ({} if remedy is None else {"remedy": remedy})
        sys.stderr.write(f"{json.dumps(told)}\n")
    else:
        sys.stderr.write(f"error: {message}{'' if remedy is None else f'; {remedy}'}\n")
    return 2


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
