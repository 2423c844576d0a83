"""A fair queue before one worker thread: one call of a model at a time, clients take turns.

A call can be stopped while it waits and between the steps of its work. All methods run on the event loop
except `Call.work`, `Call.step` and `Call.tell`, which run on the worker thread.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mnemoscope.web.errors import ApiError, come_again

T = TypeVar("T")
# Takes a partial result of a call that is under way.
Tell = Callable[[dict[str, Any]], None]

LONGEST_RETRY = 60  # seconds that a client is told to wait, at most


class Stopped(BaseException):
    """Stop of a call; no `Exception`, so that no handler takes it for a failure of the model."""


@dataclass(frozen=True)
class Limits:
    """Limits of the queue.

    Attributes:
        waiting_of_client: waiting calls of one client.
        waiting: waiting calls of all clients.
        seconds: seconds that one call may run.
    """

    waiting_of_client: int = 4
    waiting: int = 32
    seconds: float = 300.0


class Call(Generic[T]):
    """A call of a model.

    Attributes:
        client: id of the client.
        lane: a newer call of the client in the same lane replaces an older one; None for no lane.
        work: computes the answer; raises `Stopped` if the call is stopped meanwhile.
        outcome: the answer or the error.
        news: set when a partial result was added.
        steps: blocks of the model that were started.
        partial: partial results so far, in order.
        started: start of the work by the clock of the event loop; None while the call waits.
    """

    def __init__(self, client: str, lane: str | None, work: Callable[[Call[T]], T]) -> None:
        self.client = client
        self.lane = lane
        self.work = work
        self.outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # Nobody may be left to ask for it.
        self.outcome.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.steps = 0
        self.partial: list[dict[str, Any]] = []
        self.news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.started: float | None = None
        self._stopped = False

    def tell(self, partial: dict[str, Any]) -> None:
        """Add a partial result, on the worker thread."""
        self.partial.append(partial)
        self._loop.call_soon_threadsafe(self.news.set)

    def step(self) -> None:
        """Count a step of the work.

        Raises:
            Stopped: the call was stopped.
        """
        if self._stopped:
            raise Stopped
        self.steps += 1

    def stop(self, reason: ApiError | None) -> None:
        """End the call with an error, or cancel it if there is none; running work ends at its next step."""
        self._stopped = True
        if self.outcome.done():
            return
        if reason is None:
            self.outcome.cancel()
        else:
            self.outcome.set_exception(reason)

    def finish(self, done: asyncio.Future[T]) -> None:
        """Take the outcome of the work unless the call was stopped."""
        error = done.exception()
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(done.result())
        else:
            self.outcome.set_exception(error)


class FairQueue:
    """Queue of calls before one worker thread; clients take turns, however many calls each has."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: OrderedDict[str, deque[Call]] = OrderedDict()
        self._running: Call | None = None
        self._came = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, "mnemoscope-model")
        self._usual_seconds = 1.0

    def submit(self, client: str, lane: str | None, work: Callable[[Call[T]], T]) -> Call[T]:
        """Put a call into the queue; an older one of the same client and lane is stopped.

        Raises:
            ApiError: 429 if the client has too many waiting calls, 503 if all clients have.
        """
        self._refuse_when_full(client, sum(call is not self._running for call in self._in_lane(client, lane)))
        self.stop_lane(client, lane)
        call = Call(client, lane, work)
        self._waiting.setdefault(client, deque()).append(call)
        self._came.set()
        return call

    def stop_lane(self, client: str, lane: str | None) -> None:
        """Stop the calls of a lane that a newer call replaces."""
        for call in self._in_lane(client, lane):
            self.stop(call, ApiError(409, "a newer request of the same client and lane took its place"))

    def stop(self, call: Call, reason: ApiError | None = None) -> None:
        """Remove a call from the queue, or end it at its next step if it runs; finished calls are left."""
        call.stop(reason)
        own = self._waiting.get(call.client)
        if own is not None and call in own:
            own.remove(call)
            if not own:
                del self._waiting[call.client]

    def ahead(self, call: Call) -> int:
        """Count the calls that run before a waiting call, if no others come; clients take turns."""
        if call.started is not None or call not in self._waiting.get(call.client, ()):
            return 0
        place = self._waiting[call.client].index(call)
        turns = list(self._waiting)
        mine = turns.index(call.client)
        others = sum(
            min(len(own), place + (turn < mine))
            for turn, (client, own) in enumerate(self._waiting.items())
            if client != call.client
        )
        return place + others + (self._running is not None)

    @property
    def n_waiting(self) -> int:
        """Number of waiting calls."""
        return sum(map(len, self._waiting.values()))

    async def serve(self) -> None:
        """Run the calls one after the other, for ever."""
        while True:
            await self._came.wait()
            call = self._next()
            if call is None:
                self._came.clear()
            else:
                await self._do(call)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the calls while the context lasts, then close the queue."""
        working = asyncio.ensure_future(self.serve())
        try:
            yield
        finally:
            self.close()
            working.cancel()

    def close(self) -> None:
        """Stop every call; running work ends at its next step."""
        reason = come_again(503, "the server is stopping", "start it again", LONGEST_RETRY)
        for call in list(self._all()):
            self.stop(call, reason)
        self._worker.shutdown(wait=False)

    async def _do(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        self._running, call.started = call, loop.time()
        try:
            done = loop.run_in_executor(self._worker, call.work, call)
            await asyncio.wait({done}, timeout=self.limits.seconds)
            if not done.done():
                call.stop(self._too_long())
                await asyncio.wait({done})
            call.finish(done)
        finally:
            self._running = None
        self._usual_seconds += 0.2 * (loop.time() - call.started - self._usual_seconds)

    def _next(self) -> Call | None:
        """Take the first call of the client whose turn it is, and move the client to the end."""
        if not self._waiting:
            return None
        client, own = self._waiting.popitem(last=False)
        call = own.popleft()
        if own:
            self._waiting[client] = own
        return call

    def _all(self) -> Iterator[Call]:
        if self._running is not None:
            yield self._running
        for own in self._waiting.values():
            yield from own

    def _in_lane(self, client: str, lane: str | None) -> list[Call]:
        if lane is None:
            return []
        return [call for call in self._all() if (call.client, call.lane) == (client, lane)]

    def _refuse_when_full(self, client: str, leaving: int) -> None:
        own = len(self._waiting.get(client, ())) - leaving
        if own >= self.limits.waiting_of_client:
            raise come_again(
                429,
                f"{own} requests of this client are waiting already",
                "wait for their answers, or for as long as Retry-After says",
                self._retry_after(own),
            )
        if self.n_waiting - leaving >= self.limits.waiting:
            raise come_again(
                503,
                f"{self.n_waiting} requests are waiting already",
                "try again after as long as Retry-After says",
                self._retry_after(self.n_waiting),
            )

    def _retry_after(self, n_calls: int) -> int:
        return min(max(1, math.ceil(n_calls * self._usual_seconds)), LONGEST_RETRY)

    def _too_long(self) -> ApiError:
        return come_again(
            503,
            f"the request took longer than {self.limits.seconds:g} s and was stopped",
            "ask for less (a shorter prompt, fewer neurons or controls), use the command line, or start the "
            "server with a longer --time-limit",
            LONGEST_RETRY,
        )
