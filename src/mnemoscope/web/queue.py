"""One call of a model at a time: a queue in which clients take turns, before one worker thread.

A call can be stopped while it waits and between the steps of its work. Everything here runs on the event
loop but `Call.run` and `Call.step`, which run on the worker thread.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from mnemoscope.web.errors import ApiError, come_again

T = TypeVar("T")
Step = Callable[[], None]

LONGEST_RETRY = 60  # seconds that a client is told to wait, at most


class Stopped(BaseException):
    """A call is no longer wanted; no `Exception`, so that nothing takes it for a failure of the model."""


@dataclass(frozen=True)
class Limits:
    """How much the queue takes.

    Attributes:
        waiting_of_client: calls of one client that may wait.
        waiting: calls that may wait in all.
        seconds: how long one call may run.
    """

    waiting_of_client: int = 4
    waiting: int = 32
    seconds: float = 300.0


class Call(Generic[T]):
    """Something asked of a model.

    Attributes:
        client: who asks.
        lane: calls of a client in the same lane take each other's place; None for one that takes none.
        outcome: the answer, or why there is none.
        ahead: calls that were waiting or running when it came.
        steps: blocks of the model that it has run, the one that runs now among them.
        started: when its work began, by the clock of the event loop; None while it waits.
    """

    def __init__(self, client: str, lane: str | None, work: Callable[[Step], T], ahead: int) -> None:
        self.client = client
        self.lane = lane
        self.outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # Nobody may be left to ask for it.
        self.outcome.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.ahead = ahead
        self.steps = 0
        self.started: float | None = None
        self._work = work
        self._stopped = False

    def run(self) -> T:
        """Do the work.

        Raises:
            Stopped: the call was stopped on the way.
        """
        return self._work(self.step)

    def step(self) -> None:
        """Count a step of the work.

        Raises:
            Stopped: the call was stopped.
        """
        if self._stopped:
            raise Stopped
        self.steps += 1

    def stop(self, reason: ApiError | None) -> None:
        """Answer with a reason, or not at all; work that has begun ends at its next step."""
        self._stopped = True
        if self.outcome.done():
            return
        if reason is None:
            self.outcome.cancel()
        else:
            self.outcome.set_exception(reason)

    def finish(self, done: asyncio.Future[T]) -> None:
        """Take over what the work came to, unless the call was stopped."""
        error = done.exception()
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(done.result())
        else:
            self.outcome.set_exception(error)


class FairQueue:
    """Calls that wait for the one worker thread; clients take turns however many calls each has."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: OrderedDict[str, deque[Call]] = OrderedDict()
        self._running: Call | None = None
        self._came = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, "mnemoscope-model")
        self._usual_seconds = 1.0

    def submit(self, client: str, lane: str | None, work: Callable[[Step], T]) -> Call[T]:
        """Put a call into the queue; an older one of the same client and lane is stopped.

        Raises:
            Refused: 429 if the client has too many calls waiting, 503 if there are too many in all.
        """
        self._refuse_when_full(client, sum(call is not self._running for call in self._in_lane(client, lane)))
        self.stop_lane(client, lane)
        call = Call(client, lane, work, self.n_waiting + (self._running is not None))
        self._waiting.setdefault(client, deque()).append(call)
        self._came.set()
        return call

    def stop_lane(self, client: str, lane: str | None) -> None:
        """Stop the calls whose place a newer one takes."""
        for call in self._in_lane(client, lane):
            self.stop(call, ApiError(409, "a newer request of the same client and lane took its place"))

    def stop(self, call: Call, reason: ApiError | None = None) -> None:
        """Take a call out of the queue, or end it at its next step if it runs; done ones stay as they are."""
        call.stop(reason)
        own = self._waiting.get(call.client)
        if own is not None and call in own:
            own.remove(call)
            if not own:
                del self._waiting[call.client]

    @property
    def n_waiting(self) -> int:
        """How many calls wait."""
        return sum(map(len, self._waiting.values()))

    async def serve(self) -> None:
        """Do the calls one after the other, for ever."""
        while True:
            await self._came.wait()
            call = self._next()
            if call is None:
                self._came.clear()
            else:
                await self._do(call)

    def close(self) -> None:
        """Stop every call; work that has begun ends at its next step."""
        reason = come_again(503, "the server is stopping", "start it again", LONGEST_RETRY)
        for call in list(self._all()):
            self.stop(call, reason)
        self._worker.shutdown(wait=False)

    async def _do(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        self._running, call.started = call, loop.time()
        try:
            done = loop.run_in_executor(self._worker, call.run)
            await asyncio.wait({done}, timeout=self.limits.seconds)
            if not done.done():
                call.stop(self._too_long())
                await asyncio.wait({done})
            call.finish(done)
        finally:
            self._running = None
        self._usual_seconds += 0.2 * (loop.time() - call.started - self._usual_seconds)

    def _next(self) -> Call | None:
        """The first call of the client whose turn it is; the client then goes to the end of the row."""
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
