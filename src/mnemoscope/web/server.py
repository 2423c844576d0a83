"""The opened models behind their queue, calls as HTTP responses, and the socket that listens."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import Depends, FastAPI, Header, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import mnemoscope
from mnemoscope._io import json_text
from mnemoscope.api import Model
from mnemoscope.attribution.methods.registry import methods
from mnemoscope.errors import OptionError
from mnemoscope.web import requests
from mnemoscope.web.cache import Latest
from mnemoscope.web.errors import refusal_of
from mnemoscope.web.fields import MOST_PROMPT_CHARACTERS, MOST_TOP
from mnemoscope.web.handlers import (
    MOST_PROMPT_TOKENS,
    MOST_TARGET_TOKENS,
    Answers,
    answer_text,
    stepping,
)
from mnemoscope.web.models import describe, model_named
from mnemoscope.web.queue import Call, FairQueue, Limits, Tell
from mnemoscope.web.security import LOOPBACK, MOST_BODY_BYTES, Names

EVENTS = "application/x-ndjson"
SECONDS_BETWEEN_EVENTS = 0.1


def json_response(value: dict[str, Any]) -> Response:
    """Make the response of an answer."""
    return Response(answer_text(value), media_type="application/json")


class Awaited(Response):
    """Response of a call that waits or runs: JSON at the end, or a line for each event.

    A client that disconnects stops its call.
    """

    def __init__(self, queue: FairQueue, call: Call[Response], events: bool) -> None:
        super().__init__()
        self.queue = queue
        self.call = call
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, and before it the events if the client accepts them."""
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            if self.events:
                await self._send_events(gone, send)
            else:
                await asyncio.wait({self.call.outcome, gone}, return_when=asyncio.FIRST_COMPLETED)
                if self.call.outcome.done():
                    error = self.call.outcome.exception()
                    answer = self.call.outcome.result() if error is None else refusal_of(error).response()
                    await answer(scope, receive, send)
        except OSError:  # the client went away while it was sent to
            pass
        finally:
            gone.cancel()
            self.queue.stop(self.call)

    async def _send_events(self, gone: asyncio.Future[None], send: Send) -> None:
        headers = [(b"content-type", EVENTS.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for line in self._lines(gone):
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _lines(self, gone: asyncio.Future[None]) -> AsyncIterator[bytes]:
        call, told, n_partial = self.call, -1, 0
        ahead = self.queue.ahead(call)
        yield _line({"event": "queued", "ahead": ahead})
        while not call.outcome.done() and not gone.done():
            news = asyncio.ensure_future(call.news.wait())
            await asyncio.wait(
                {call.outcome, gone, news},
                timeout=SECONDS_BETWEEN_EVENTS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            news.cancel()
            call.news.clear()
            for partial_result in call.partial[n_partial:]:
                n_partial += 1
                yield _line({"event": "partial", "result": partial_result})
            if call.started is None and self.queue.ahead(call) != ahead:
                ahead = self.queue.ahead(call)
                yield _line({"event": "queued", "ahead": ahead})
            if call.steps > told and call.started is not None and not call.outcome.done():
                told = call.steps
                seconds = asyncio.get_running_loop().time() - call.started
                yield _line({"event": "progress", "blocks_run": told, "seconds": round(seconds, 3)})
        for partial_result in call.partial[n_partial:]:
            yield _line({"event": "partial", "result": partial_result})
        if call.outcome.done() and not call.outcome.cancelled():
            error = call.outcome.exception()
            yield _result_line(call.outcome.result()) if error is None else _error_line(error)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _line(event: dict[str, Any]) -> bytes:
    return json_text(event).encode() + b"\n"


def _result_line(answer: Response) -> bytes:
    return b'{"event": "result", "result": ' + answer.body + b"}\n"


def _error_line(error: BaseException) -> bytes:
    refusal = refusal_of(error)
    return _line({"event": "error", "status": refusal.status, **refusal.to_json()})


MOST_ANSWERS = 64
MOST_ANSWER_BYTES = 32 * 2**20

AskedOf = TypeVar("AskedOf", bound=requests.PromptRequest)
_CLIENT_NAME = r"^[A-Za-z0-9_-]{1,64}$"


class Caller:
    """Sender of a request, and the form of the response.

    Attributes:
        client: id in the request's header, or else the address.
        lane: lane in which a newer request replaces an older one; None for no lane.
        events: whether the response has a line for each event.
    """

    def __init__(
        self,
        request: Request,
        x_mnemoscope_client: Annotated[
            str | None,
            Header(
                pattern=_CLIENT_NAME,
                description="A random id of the caller, else its address; clients take turns.",
            ),
        ] = None,
        x_mnemoscope_lane: Annotated[
            str | None,
            Header(
                pattern=_CLIENT_NAME,
                description="A newer request of the same client and lane takes the place of an older one.",
            ),
        ] = None,
    ) -> None:
        address = request.client.host if request.client else ""
        self.client = x_mnemoscope_client or f"address {address}"
        self.lane = x_mnemoscope_lane
        self.events = EVENTS in request.headers.get("accept", "")


Asking = Annotated[Caller, Depends(Caller)]


class Server:
    """Opened models, their queue, and a cache of answers."""

    def __init__(self, models: Mapping[str, Model], limits: Limits) -> None:
        """Serve models by name; the first is the default."""
        self.models = models
        self.limits = limits
        self.answers = Answers()
        self.queue = FairQueue(limits)
        self._latest: Latest[Response] = Latest(MOST_ANSWERS, MOST_ANSWER_BYTES)

    def reply(
        self,
        caller: Caller,
        body: AskedOf,
        answer: Callable[[Model, AskedOf, Tell], dict[str, Any] | Response],
        events: bool,
    ) -> Response:
        """Return the response to a request: a cached answer, or that of a new call.

        Args:
            caller: the sender.
            body: the request.
            answer: computes the answer; it may tell partial results on the way.
            events: whether the response has a line for each event.

        Raises:
            OptionError: no open model has that name.
            ApiError: too many calls are waiting.
        """
        key = type(body), body.model_dump_json()
        known = self._latest.get(key)
        if known is not None:
            self.queue.stop_lane(caller.client, caller.lane)
            return Response(_result_line(known), media_type=EVENTS) if events else known
        model = model_named(self.models, body.model)

        def work(call: Call[Response]) -> Response:
            with stepping(model, call.step):
                found = answer(model, body, call.tell)
            return found if isinstance(found, Response) else json_response(found)

        call = self.queue.submit(caller.client, caller.lane, work)
        call.outcome.add_done_callback(partial(self._keep, key))
        return Awaited(self.queue, call, events)

    def _keep(self, key: tuple[type, str], outcome: asyncio.Future[Response]) -> None:
        if not outcome.cancelled() and outcome.exception() is None:
            answer = outcome.result()
            self._latest.put(key, answer, len(answer.body))

    def about(self) -> dict[str, Any]:
        """Return the models, the methods and the limits of requests."""
        return {
            "version": mnemoscope.__version__,
            "models": [describe(model) | {"name": name} for name, model in self.models.items()],
            "methods": [each.to_json() for each in methods().values()],
            "limits": {
                "body_bytes": MOST_BODY_BYTES,
                "prompt_characters": MOST_PROMPT_CHARACTERS,
                "prompt_tokens": MOST_PROMPT_TOKENS,
                "target_tokens": MOST_TARGET_TOKENS,
                "top": MOST_TOP,
                "parts": requests.MOST_PARTS,
                "seconds": self.limits.seconds,
            },
        }


SECONDS_TO_END = 5


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket before the models are opened; nobody can connect yet.

    Args:
        host: name or address.
        port: port; 0 for a free one.

    Raises:
        OptionError: the address is in use, or is no address of this machine.
    """
    listening = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        if listening is not None:
            listening.close()
        raise OptionError(
            f"cannot listen at {host} port {port} ({error.strerror or error}); give another --port, or a "
            "--host of this machine"
        ) from error
    return listening


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    Raises:
        OptionError: the name cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OptionError(f"--host {host!r} is not an address; give one such as 127.0.0.1") from error
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def address_of(host: str, listening: socket.socket) -> str:
    """Return the address for a browser on this machine."""
    name = "127.0.0.1" if listens_everywhere(listening) else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}/"


def listens_everywhere(listening: socket.socket) -> bool:
    """Return whether a socket listens at all addresses of this machine."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_unspecified


def names_of(host: str, for_others: bool) -> Names:
    """Return the accepted names of a server: those of this machine, or also those for other machines."""
    if not for_others:
        return Names({*LOOPBACK, host.lower()})
    return Names({*LOOPBACK, host.lower(), socket.gethostname().lower()}, any_address=True)


def make_server(app: FastAPI) -> uvicorn.Server:
    """Make the HTTP server of an application; headers of proxies are ignored."""
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
        app: the application.
        listening: socket of `bind`; connections made before the server runs wait.
        open_at: address to open in the browser; None for none.
    """
    server = make_server(app)
    if open_at is not None:
        # It may wait for the browser, which waits for us.
        threading.Thread(target=webbrowser.open, args=[open_at], daemon=True).start()
    server.run(sockets=[listening])
