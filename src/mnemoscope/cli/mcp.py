"""`mcp`: tools for agents over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import signal
from importlib.util import find_spec

import typer

from mnemoscope.cli.command import command
from mnemoscope.cli.output import stdout_kept_clean, tell
from mnemoscope.cli.serve import ServedModels, TimeLimit
from mnemoscope.errors import OptionError, missing_extra

commands = typer.Typer()


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
