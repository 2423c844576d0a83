"""Checks of every request, and security headers of every response.

A page of another site may make a browser send requests to this server. So the name that it was reached
by (`Host`, against DNS rebinding) and the page that asks (`Origin`, `Sec-Fetch-Site`) must be our own, and
a body must be JSON, which no form of another site can send. Bodies are read here, so that none is larger
or slower than it may be.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnemoscope.web.errors import ApiError, refusal_of

MOST_BODY_BYTES = 64 * 2**10
MOST_BODY_SECONDS = 10
LOOPBACK = ("localhost", "127.0.0.1", "::1")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Names:
    """Accepted names of the server.

    Attributes:
        hosts: names and addresses without a port, lower case.
        any_address: whether any numeric address is accepted; numeric addresses cannot be rebound.
    """

    hosts: Collection[str] = LOOPBACK
    any_address: bool = False

    def include(self, host: str) -> bool:
        """Return whether a `Host` header names the server; the port is ignored, as it may be forwarded."""
        name = _without_port(host.lower())
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address


class SecurityMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, names: Names) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        said = _Said(send)
        try:
            headers = Headers(scope=scope)
            check_sender(headers, self.names)
            body = await _body(headers, receive)
            if body is not None:
                await self.app(scope, _replayed(body, receive), said)
        except Exception as error:  # whatever it is, its answer is shut in like all others
            if said.begun:
                raise
            await refusal_of(error).response()(scope, receive, said)


def check_sender(headers: Headers, names: Names) -> None:
    """Refuse requests that another site makes a browser send.

    Raises:
        ApiError: 403 if `Host`, `Origin` or `Sec-Fetch-Site` is not the server's.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not names.include(hosts[0]):
        raise ApiError(
            403, "this server has another address", "open it by the address that it wrote when it started"
        )
    own = (f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}")
    of_others = any(origin.lower() not in own for origin in headers.getlist("origin"))
    across = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if of_others or (across and not _opens_a_page(headers)):
        raise ApiError(403, "pages of other sites may not ask this server", "ask from its own page")


def _opens_a_page(headers: Headers) -> bool:
    """Return whether the request follows a link."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _body(headers: Headers, receive: Receive) -> bytes | None:
    """Read the body; None if the client disconnects.

    Raises:
        ApiError: 413, 415 or 408 if the body is too large, not JSON or too slow.
    """
    too_large = ApiError(
        413, f"the body is larger than {MOST_BODY_BYTES:,} bytes", "ask with a shorter prompt or fewer parts"
    )
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MOST_BODY_BYTES:
        raise too_large
    has_body = int(length) > 0 or "transfer-encoding" in headers
    if has_body and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body is not said to be JSON", "send it with Content-Type: application/json")
    try:
        return await asyncio.wait_for(_read(receive, too_large), MOST_BODY_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(408, "the body did not come", "send it at once") from None


async def _read(receive: Receive, too_large: ApiError) -> bytes | None:
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MOST_BODY_BYTES:
            raise too_large
        more = message.get("more_body", False)
    return b"".join(chunks)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a receiver of the body in one message and of the messages after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


class _Said:
    """Sender that adds the security headers and records whether a response has begun."""

    def __init__(self, send: Send) -> None:
        self.begun = False
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            MutableHeaders(scope=message).update(HEADERS)
        await self._send(message)
