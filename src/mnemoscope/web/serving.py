"""Listening, until somebody stops it."""

from __future__ import annotations

import ipaddress
import socket
import threading
import webbrowser

import uvicorn
from fastapi import FastAPI

from mnemoscope.errors import OptionError
from mnemoscope.web.guard import LOOPBACK, Names

SECONDS_TO_END = 5


def bind(host: str, port: int) -> socket.socket:
    """Take an address, before anything slow is done; nobody can connect yet.

    Args:
        host: a name or address.
        port: 0 takes a free one.

    Raises:
        OptionError: it is taken, or no address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        raise OptionError(
            f"cannot listen at {host} port {port} ({error.strerror or error}); give another --port, or a "
            "--host of this machine"
        ) from error
    return listening


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    Raises:
        OptionError: nothing is known of that name.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OptionError(f"--host {host!r} is no address; give one such as 127.0.0.1") from error
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def address_of(host: str, listening: socket.socket) -> str:
    """What to open in a browser on this machine."""
    name = "127.0.0.1" if listens_everywhere(listening) else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}/"


def listens_everywhere(listening: socket.socket) -> bool:
    """Whether a socket listens at all addresses of this machine."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_unspecified


def names_of(host: str, for_others: bool) -> Names:
    """The names that a server at a host may be reached by: on this machine, or from other machines too."""
    if not for_others:
        return Names({*LOOPBACK, host.lower()})
    return Names({*LOOPBACK, host.lower(), socket.gethostname().lower()}, any_address=True)


def make_server(app: FastAPI) -> uvicorn.Server:
    """What listens for an application: over HTTP alone, believing no proxy."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    return uvicorn.Server(config)


def listen(app: FastAPI, listening: socket.socket, open_at: str | None) -> None:
    """Serve until interrupted.

    Args:
        app: what answers.
        listening: what `bind` took; whoever connects before the server runs waits for it.
        open_at: what to open in the browser; None for nothing.
    """
    server = make_server(app)
    if open_at is not None:
        # It may wait for the browser, which waits for us.
        threading.Thread(target=webbrowser.open, args=[open_at], daemon=True).start()
    server.run(sockets=[listening])
