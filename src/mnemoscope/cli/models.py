"""What can be analysed here: `models` and `demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from mnemoscope.cli.options import Json, example
from mnemoscope.cli.output import stdout_kept_clean, tell, write, write_drawn, write_json

commands = typer.Typer()


@commands.command(epilog=example("mnemoscope models"))
def models(json: Json = False) -> None:
    """Prove the supported families on tiny models, here and now."""
    with stdout_kept_clean():
        from mnemoscope.attribution.result import records
        from mnemoscope.model.families import prove_families

        families = prove_families(tell)
    if json:
        write_json({"families": records(families, tuple(families.columns))})
    else:
        from mnemoscope.view.terminal import render_families

        write_drawn(lambda console: render_families(families, console))


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
