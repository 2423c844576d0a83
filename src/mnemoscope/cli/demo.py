"""`demo`: the demo model's place, made where it is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from mnemoscope.cli.command import command
from mnemoscope.cli.output import stage, stdout_kept_clean, tell, write

commands = typer.Typer()


@command(commands, "mnemoscope demo --verify")
def demo(
    repair: Annotated[bool, typer.Option("--repair", help="Make it anew.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check every byte of it.")] = False,
) -> None:
    """Fetch the demo model where it is missing, and print its folder."""
    with stdout_kept_clean():
        stage("looking at the demo model")
        from mnemoscope.model.demo import ensure_demo, verify_demo

        folder = ensure_demo(repair=repair, report=tell)
        if verify:
            verify_demo()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    checked = ", every byte as it was made" if verify else ""
    write(f"{folder}\n{size / 1e6:.0f} MB{checked}\n")
