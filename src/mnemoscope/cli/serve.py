"""`serve` and `mcp`: the web page with its JSON API, and tools for agents over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from mnemoscope._arguments import check_model_path
from mnemoscope.cli.command import MODEL, command
from mnemoscope.cli.options import Device, Dtype, ModelOptions, Threads, TrustRemoteCode
from mnemoscope.cli.output import end_progress, stdout_kept_clean, tell, warn
from mnemoscope.errors import OptionError, missing_extra

if TYPE_CHECKING:
    from mnemoscope.api import Model

commands = typer.Typer()

_HERE, _EVERYWHERE = "127.0.0.1", "0.0.0.0"


@dataclass(frozen=True, kw_only=True)
class ServedModels:
    """The models of a server, and the hardware they run on."""

    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="As for other commands: MNEMOSCOPE_MODEL or 'demo' if not given. Several times for several; "
            "no other is opened.",
            rich_help_panel=MODEL,
        ),
    ] = None
    dtype: Dtype = None
    device: Device = None
    threads: Threads = None
    trust_remote_code: TrustRemoteCode = False

    @property
    def names(self) -> list[str]:
        """Names of the models; the first is the default."""
        return self.model or [os.environ.get("MNEMOSCOPE_MODEL") or "demo"]

    def __post_init__(self) -> None:
        """Refuse a model that is given twice, and a path without one."""
        for name in self.names:
            check_model_path(name)
            if self.names.count(name) > 1:
                raise OptionError(f"--model {name} is given twice; give each model once")

    def open(self) -> dict[str, Model]:
        """Open the models by name, that of local files without their folders.

        Raises:
            OptionError: two models have one name.
        """
        options = ModelOptions(
            dtype=self.dtype,
            device=self.device,
            threads=self.threads,
            trust_remote_code=self.trust_remote_code,
        )
        from mnemoscope.results.targets import public_name

        opened = [replace(options, model=name).open() for name in self.names]
        names = [public_name(model.name, model.revision) for model in opened]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise OptionError(
                f"several models are called {twice}; rename the folder of one, or serve one alone"
            )
        return dict(zip(names, opened, strict=True))


TimeLimit = Annotated[
    float,
    typer.Option(min=1, metavar="SECONDS", help="How long one request may take."),
]


@command(commands, "mnemoscope serve --open")
def serve(
    *,
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
    time_limit: TimeLimit = 300.0,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    models: ServedModels,
) -> None:
    """Serve the web page and its JSON API to this machine.

    It ends with Ctrl-C.
    """
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
            opened = models.open()
            listening.listen()
            address = address_of(host, listening)
            if not here:
                warn(
                    "Other machines may ask this server: without a password and unencrypted. Whoever reaches "
                    "it can keep this machine busy."
                )
            tell(
                f"Mnemoscope is at {address} until Ctrl-C; its API is described at {address}api/openapi.json"
            )
            end_progress()
            app = make_app(opened, names_of(host, not here), Limits(seconds=time_limit))
            listen(app, listening, address if open_browser else None)


@command(commands, "mnemoscope mcp --model demo")
def mcp(*, time_limit: TimeLimit = 300.0, models: ServedModels) -> None:
    """Give agents tools over the Model Context Protocol (MCP).

    The protocol is on stdin and stdout, until stdin ends.
    """
    if find_spec("mcp") is None:
        raise OptionError(missing_extra("answering agents", "mcp"))
    with stdout_kept_clean():
        from mnemoscope.web.mcp import TOOLS, serve
        from mnemoscope.web.queue import Limits

        opened = models.open()
    tell(f"Mnemoscope answers agents about {', '.join(opened)} with the tools {', '.join(TOOLS)}")
    # The thread that waits for stdin cannot be stopped, so Ctrl-C ends the process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Real stdout: the protocol claims it, and sends all else that is written there to stderr.
    asyncio.run(serve(opened, Limits(seconds=time_limit)))
