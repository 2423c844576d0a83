"""`models`: validation of the supported families, or of one model."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from mnemoscope._arguments import check_model_path
from mnemoscope.cli.command import command, example
from mnemoscope.cli.options import Device, Dtype, Json, Revision, Threads, TrustRemoteCode, set_threads
from mnemoscope.cli.output import stage, stdout_kept_clean, tell, write_result

commands = typer.Typer()
models = typer.Typer()
commands.add_typer(models, name="models")


@models.callback(invoke_without_command=True, epilog=example("mnemoscope models"))
def validate_families(context: typer.Context, json: Json = False, threads: Threads = None) -> None:
    """Validate the supported families, or one model.

    The families are validated on tiny models, on this machine.
    """
    if context.invoked_subcommand is not None:
        context.default_map = {context.invoked_subcommand: {"json": json, "threads": threads}}
        return
    with stdout_kept_clean():
        stage("validating families")
        set_threads(threads)
        from mnemoscope.model.families.registry import validate_families
        from mnemoscope.model.loading import quiet
        from mnemoscope.report.terminal.checks import render_families
        from mnemoscope.results.columns import records

        with quiet():  # tiny random models make transformers warn of their settings
            table = validate_families(tell)
    write_result(json, lambda: {"families": records(table)}, partial(render_families, table))


@command(models, "mnemoscope models check path/to/my-finetuned-llama")
def check(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="'demo', a Hugging Face id, a folder or a .gguf file.")
    ],
    json: Json = False,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Validate one model.

    Every sum is printed with its error, whether it passes or not.
    """
    check_model_path(model)
    with stdout_kept_clean():
        stage(f"opening {model}")
        set_threads(threads)
        from mnemoscope.model.loading import open_model
        from mnemoscope.model.validation import require
        from mnemoscope.report.terminal.checks import checks_json, render_checks

        found = open_model(
            model,
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            must_pass=False,
        )
    write_result(json, partial(checks_json, found), partial(render_checks, found))
    require(found.validation, found.model)
