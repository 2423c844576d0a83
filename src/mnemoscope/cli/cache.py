"""`demo` and `cache`: the demo model, made where it is missing, and what else the cache folder keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnemoscope.cli.command import command
from mnemoscope.cli.options import Json
from mnemoscope.cli.output import stage, stdout_kept_clean, tell, write, write_drawn, write_json
from mnemoscope.errors import ModelFileError, UnknownModelError

if TYPE_CHECKING:
    from rich.console import Console

    from mnemoscope.model.cache import Entry


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


@command(commands, "mnemoscope cache my-model.gguf --empty")
def cache(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="One of them: 'demo', the GGUF file, or the folder's name; all if not given.",
        ),
    ] = None,
    empty: Annotated[bool, typer.Option("--empty", help="Remove them.")] = False,
    json: Json = False,
) -> None:
    """List or remove converted models and examples of neurons."""
    with stdout_kept_clean():
        from mnemoscope.model.cache import (
            EXAMPLES,
            cache_folder,
            entries,
            remove_abandoned,
            remove_unfinished,
        )
        from mnemoscope.model.gguf_cache import cache_limit

        limit = cache_limit()
        found = [entry for entry in reversed(entries()) if model is None or entry.is_called(model)]
        if model is not None and not found:
            raise UnknownModelError(
                f"no model {model!r} is kept in {cache_folder()}; `mnemoscope cache` lists the others"
            )
        if empty:
            _remove(found)
            if model is None:
                remove_abandoned()
                remove_unfinished()
    total = sum(entry.size for entry in found)
    if json:
        write_json(
            {
                "folder": str(cache_folder()),
                "limit": limit,
                "total": total,
                "removed": empty,
                "models": [_record(entry) for entry in found if entry.kind != EXAMPLES],
                "examples": [_record(entry) for entry in found if entry.kind == EXAMPLES],
            }
        )
    elif empty:
        write(f"{cache_folder()}\n{len(found)} removed, {_amount(total)}\n")
    else:
        write_drawn(lambda console: _render(found, console))
        write(
            f"{cache_folder()}\n{_amount(total)}; conversions of GGUF files may take {_amount(limit)} "
            "(MNEMOSCOPE_CACHE_LIMIT)\n"
        )


def _remove(found: list[Entry]) -> None:
    """Remove the entries that no process is opening.

    Raises:
        ModelFileError: an entry is in use, or cannot be removed.
    """
    from mnemoscope.model.cache import remove

    used: list[str] = []
    for entry in found:
        try:
            if not remove(entry.folder):
                used.append(entry.source)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            raise ModelFileError(
                f"cannot remove {entry.folder} ({reason}); check who may write there"
            ) from error
    if used:
        raise ModelFileError(f"{', '.join(used)}: in use by another process; try again when it has ended")


def _record(entry: Entry) -> dict[str, str | int]:
    return {
        "name": entry.folder.name,
        "kind": entry.kind,
        "source": entry.source,
        "bytes": entry.size,
        "last_used": _when(entry),
    }


def _render(found: list[Entry], console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("source", "kind", "folder", "size", "last used"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for entry in found:
        table.add_row(
            Path(entry.source).name, _KINDS[entry.kind], entry.folder.name, _amount(entry.size), _when(entry)
        )
    if found:
        console.print(table)


_KINDS = {"demo": "demo model", "gguf": "GGUF, as float32", "examples": "examples of neurons"}


def _when(entry: Entry) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(entry.last_used).astimezone().isoformat(" ", "minutes")


def _amount(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB" if n_bytes >= 1e6 or not n_bytes else f"{n_bytes / 1e3:,.0f} kB"
