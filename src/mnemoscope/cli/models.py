"""What can be analysed here: `models` and `demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from mnemoscope.cli.options import (
    Device,
    Dtype,
    Json,
    Revision,
    Threads,
    TrustRemoteCode,
    example,
    set_threads,
)
from mnemoscope.cli.output import stdout_kept_clean, tell, write, write_drawn, write_json

commands = typer.Typer()
models = typer.Typer()
commands.add_typer(models, name="models")


@models.callback(invoke_without_command=True, epilog=example("mnemoscope models"))
def validate_families(context: typer.Context, json: Json = False, threads: Threads = None) -> None:
    """Validate the supported families on tiny models, on this machine."""
    if context.invoked_subcommand is not None:
        return
    with stdout_kept_clean():
        set_threads(threads)
        from mnemoscope.model import families
        from mnemoscope.results.columns import records

        validated = families.validate_families(tell)
    if json:
        write_json({"families": records(validated, tuple(validated.columns))})
    else:
        from mnemoscope.report.terminal.attribution import render_families

        write_drawn(lambda console: render_families(validated, console))


@models.command(epilog=example("mnemoscope models check path/to/my-finetuned-llama"))
def check(
    model: Annotated[str, typer.Argument(help="'demo', a Hugging Face id, a folder or a .gguf file.")],
    json: Json = False,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Validate one model: print every sum with its error, whether it passes or not."""
    with stdout_kept_clean():
        set_threads(threads)
        from mnemoscope.model.loading import examine
        from mnemoscope.model.validation import require
        from mnemoscope.report.terminal.checks import checks_json, render_checks

        found = examine(
            model, revision=revision, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
    if json:
        write_json(checks_json(found))
    else:
        write_drawn(lambda console: render_checks(found, console))
    require(found.proof, found.model)


@commands.command(epilog=example("mnemoscope demo --verify"))
def demo(
    repair: Annotated[bool, typer.Option("--repair", help="Make it anew.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check every byte of it.")] = False,
) -> None:
    """Fetch the demo model if need be, and say where it is."""
    with stdout_kept_clean():
        from mnemoscope.model.demo import ensure_demo, verify_demo

        folder = ensure_demo(repair=repair, report=tell)
        if verify:
            verify_demo()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    checked = ", every byte as it was made" if verify else ""
    write(f"{folder}\n{size / 1e6:.0f} MB{checked}\n")
