"""`serve`: the web page and its JSON API."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Annotated

import typer

from mnemoscope.cli.options import Device, Dtype, ModelOptions, Threads, TrustRemoteCode, command
from mnemoscope.cli.output import stdout_kept_clean, tell
from mnemoscope.errors import OptionError, missing_extra

commands = typer.Typer()

_HERE, _EVERYWHERE = "127.0.0.1", "0.0.0.0"


@command(commands, "mnemoscope serve --open")
def serve(  # noqa: PLR0913, PLR0917 - each is an option of the command
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="As for other commands, 'demo' if not given; several times for several. No other is opened.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    host: Annotated[str | None, typer.Option(help=f"Where to listen; {_HERE} if not given.")] = None,
    allow_network: Annotated[
        bool,
        typer.Option(
            "--allow-network",
            help="Let other machines in: without a password and unencrypted. Listens everywhere if no --host "
            "is given.",
        ),
    ] = False,
    time_limit: Annotated[
        float,
        typer.Option(min=1, metavar="SECONDS", help="How long one request may take."),
    ] = 300.0,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve the web page and its JSON API to this machine, until Ctrl-C."""
    names = model or ["demo"]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"--model {name} is given twice; give each model once")
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise OptionError(missing_extra("serving", "web"))
    with stdout_kept_clean():
        from mnemoscope.web.app import make_app
        from mnemoscope.web.queue import Limits
        from mnemoscope.web.server import address_of, bind, is_loopback, listen, names_of

        host = host or (_EVERYWHERE if allow_network else _HERE)
        here = is_loopback(host)
        if not here and not allow_network:
            raise OptionError(
                f"--host {host} lets other machines in; add --allow-network if you mean it, or leave it out"
            )
        with bind(host, port) as listening:
            options = ModelOptions(
                dtype=dtype, device=device, threads=threads, trust_remote_code=trust_remote_code
            )
            models = {name: replace(options, model=name).open() for name in names}
            listening.listen()
            address = address_of(host, listening)
            if not here:
                tell(
                    "Other machines may ask this server: without a password and unencrypted. Whoever reaches "
                    "it can keep this machine busy."
                )
            tell(
                f"Mnemoscope is at {address} until Ctrl-C; its API is described at {address}api/openapi.json"
            )
            app = make_app(models, names_of(host, not here), Limits(seconds=time_limit))
            listen(app, listening, address if open_browser else None)
