"""Calls as HTTP answers: JSON when they are done, or a line for every event; a gone client stops its call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mnemoscope._io import json_text
from mnemoscope.web.errors import refusal_of
from mnemoscope.web.handlers import Answer
from mnemoscope.web.queue import Call, FairQueue

EVENTS = "application/x-ndjson"
SECONDS_BETWEEN_EVENTS = 0.1


def answered(answer: Answer, events: bool) -> Response:
    """An answer that is there already."""
    if events and answer.filename is None:
        return Response(_result_line(answer), media_type=EVENTS)
    headers = {}
    if answer.filename is not None:
        headers["Content-Disposition"] = f'attachment; filename="{answer.filename}"'
    return Response(answer.content, headers=headers, media_type=answer.media_type)


class Awaited(Response):
    """The answer of a call that waits or runs; it is stopped when its client goes away."""

    def __init__(self, queue: FairQueue, call: Call[Answer], events: bool) -> None:
        super().__init__()
        self.queue = queue
        self.call = call
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer when it is there, and events on the way if they are asked for."""
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            if self.events:
                await self._send_events(gone, send)
            else:
                await asyncio.wait({self.call.outcome, gone}, return_when=asyncio.FIRST_COMPLETED)
                if self.call.outcome.done():
                    await self._response()(scope, receive, send)
        except OSError:  # the client went away while it was sent to
            pass
        finally:
            gone.cancel()
            self.queue.stop(self.call)

    def _response(self) -> Response:
        error = self.call.outcome.exception()
        if error is None:
            return answered(self.call.outcome.result(), events=False)
        return refusal_of(error).response()

    async def _send_events(self, gone: asyncio.Future[None], send: Send) -> None:
        headers = [(b"content-type", EVENTS.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for line in self._lines(gone):
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _lines(self, gone: asyncio.Future[None]) -> AsyncIterator[bytes]:
        call, told = self.call, -1
        yield _line({"event": "queued", "ahead": call.ahead})
        while not call.outcome.done() and not gone.done():
            await asyncio.wait(
                {call.outcome, gone}, timeout=SECONDS_BETWEEN_EVENTS, return_when=asyncio.FIRST_COMPLETED
            )
            if call.steps > told and call.started is not None and not call.outcome.done():
                told = call.steps
                seconds = asyncio.get_running_loop().time() - call.started
                yield _line({"event": "progress", "blocks_run": told, "seconds": round(seconds, 3)})
        if call.outcome.done() and not call.outcome.cancelled():
            error = call.outcome.exception()
            yield _result_line(call.outcome.result()) if error is None else _error_line(error)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _line(event: dict[str, Any]) -> bytes:
    return json_text(event).encode() + b"\n"


def _result_line(answer: Answer) -> bytes:
    return b'{"event": "result", "result": ' + answer.content + b"}\n"


def _error_line(error: BaseException) -> bytes:
    refusal = refusal_of(error)
    return _line({"event": "error", "status": refusal.status, **refusal.to_json()})
