"""One call at a time, in turns, stopped when nobody wants it any more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from mnemoscope.errors import PromptError
from mnemoscope.web.cache import Latest
from mnemoscope.web.errors import ApiError
from mnemoscope.web.queue import Call, FairQueue, Limits


def served(scenario: Callable[[FairQueue], Coroutine[Any, Any, None]], limits: Limits | None = None) -> None:
    """Play a scenario with a queue whose worker works."""

    async def play() -> None:
        queue = FairQueue(limits or Limits())
        async with queue.running():
            await asyncio.wait_for(scenario(queue), 20)

    asyncio.run(play())


class Work:
    """Steps until it is told to end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.stopped = False
        self._free = threading.Event()

    def __call__(self, call: Call[str]) -> str:
        self.begun.set()
        try:
            while not self._free.is_set():
                call.step()
                time.sleep(0.001)
        except BaseException:
            self.stopped = True
            raise
        finally:
            self.ended.set()
        return "done"

    def end(self) -> None:
        self._free.set()


async def until(happened: threading.Event) -> None:
    while not happened.is_set():
        await asyncio.sleep(0.001)


async def refused(answer: Awaitable[Any]) -> ApiError:
    with pytest.raises(ApiError) as told:
        await answer
    return told.value


def test_clients_take_turns_and_one_call_runs_at_a_time() -> None:
    order, running, most = [], 0, 0

    def noted(name: str) -> Callable[[Call[str]], str]:
        def work(_: Call[str]) -> str:
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(0.005)
            running -= 1
            order.append(name)
            return name

        return work

    async def scenario(queue: FairQueue) -> None:
        first = Work()
        held = queue.submit("someone", None, first)
        await until(first.begun)
        calls = [queue.submit("greedy", None, noted(f"greedy {i}")) for i in range(3)]
        calls += [queue.submit(name, None, noted(name)) for name in ("a", "b")]
        assert [queue.ahead(call) for call in calls] == [1, 4, 5, 2, 3]
        first.end()
        assert await held.outcome == "done"
        assert [await call.outcome for call in calls] == ["greedy 0", "greedy 1", "greedy 2", "a", "b"]

    served(scenario)
    assert order == ["greedy 0", "a", "b", "greedy 1", "greedy 2"]
    assert most == 1


def test_a_newer_call_in_the_same_lane_takes_the_place_of_older_ones() -> None:
    async def scenario(queue: FairQueue) -> None:
        running, waiting, newest, other, yours = (Work() for _ in range(5))
        calls = [queue.submit("me", "page", running)]
        await until(running.begun)
        calls += [queue.submit("me", "page", waiting), queue.submit("me", "other", other)]
        assert (await refused(calls[0].outcome)).status == 409
        calls += [queue.submit("me", "page", newest), queue.submit("you", "page", yours)]
        assert (await refused(calls[1].outcome)).status == 409
        await until(running.ended)
        assert running.stopped
        for work in (other, newest, yours):
            work.end()
        assert [await call.outcome for call in calls[2:]] == ["done"] * 3
        assert not waiting.begun.is_set()

    served(scenario)


def test_without_a_lane_nothing_is_replaced() -> None:
    async def scenario(queue: FairQueue) -> None:
        works = [Work(), Work()]
        calls = [queue.submit("me", None, work) for work in works]
        for work in works:
            work.end()
        assert [await call.outcome for call in calls] == ["done", "done"]

    served(scenario)


def test_too_many_waiting_calls_are_refused_with_a_time_to_come_again() -> None:
    async def scenario(queue: FairQueue) -> None:
        held = Work()
        queue.submit("me", None, held)
        await until(held.begun)
        calls = [queue.submit("me", "lane" if i else None, Work()) for i in range(2)]
        with pytest.raises(ApiError) as own:
            queue.submit("me", None, Work())
        queue.submit("you", None, Work())
        with pytest.raises(ApiError) as all_together:
            queue.submit("she", None, Work())
        # One that takes the place of another needs no place of its own.
        queue.submit("me", "lane", Work())
        assert (await refused(calls[1].outcome)).status == 409
        assert not calls[0].outcome.done()
        assert (own.value.status, all_together.value.status) == (429, 503)
        for told in (own.value, all_together.value):
            assert 1 <= int(told.headers["Retry-After"]) <= 60

    served(scenario, Limits(waiting_of_client=2, waiting=3))


def test_a_refused_call_replaces_nothing() -> None:
    async def scenario(queue: FairQueue) -> None:
        held = Work()
        running = queue.submit("me", "lane", held)
        await until(held.begun)
        queue.submit("me", None, Work())
        with pytest.raises(ApiError):
            queue.submit("me", "lane", Work())
        assert not running.outcome.done()

    served(scenario, Limits(waiting_of_client=1))


def test_a_call_that_takes_too_long_is_stopped_and_the_next_one_runs() -> None:
    async def scenario(queue: FairQueue) -> None:
        endless = Work()
        long, short = queue.submit("me", None, endless), queue.submit("me", None, lambda _: "short")
        told = await refused(long.outcome)
        assert (told.status, told.headers["Retry-After"]) == (503, "60")
        assert "longer than 0.05 s" in told.error
        assert await short.outcome == "short"
        assert endless.stopped

    served(scenario, Limits(seconds=0.05))


def test_a_call_that_nobody_waits_for_never_runs() -> None:
    async def scenario(queue: FairQueue) -> None:
        held, never = Work(), Work()
        queue.submit("me", None, held)
        await until(held.begun)
        call: Call[str] = queue.submit("me", None, never)
        queue.stop(call)
        assert (call.outcome.cancelled(), queue.n_waiting) == (True, 0)
        held.end()
        assert await queue.submit("me", None, lambda _: "next").outcome == "next"
        assert not never.begun.is_set()

    served(scenario)


def test_a_mistake_is_the_outcome_and_the_worker_goes_on() -> None:
    def mistaken(_: Call[str]) -> str:
        raise PromptError("the prompt is empty")

    async def scenario(queue: FairQueue) -> None:
        call = queue.submit("me", None, mistaken)
        with pytest.raises(PromptError):
            await call.outcome
        assert await queue.submit("me", None, lambda _: "next").outcome == "next"

    served(scenario)


def test_closing_stops_all() -> None:
    async def scenario(queue: FairQueue) -> None:
        held = Work()
        calls = [queue.submit("me", None, held), queue.submit("me", None, Work())]
        await until(held.begun)
        queue.close()
        assert [(await refused(call.outcome)).status for call in calls] == [503, 503]
        await until(held.ended)

    served(scenario)


def test_the_latest_are_bounded_in_number_and_bytes() -> None:
    latest: Latest[str] = Latest(most=3, most_bytes=100)
    for name in "abc":
        latest.put(name, name, 10)
    assert latest.get("a") == "a"
    latest.put("d", "d", 10)
    assert [latest.get(name) for name in "abcd"] == ["a", None, "c", "d"]
    latest.put("e", "e", 85)
    assert ([latest.get(name) for name in "acde"], latest.n_bytes) == ([None, None, "d", "e"], 95)
    latest.put("f", "f", 101)
    latest.put("d", "D", 15)
    assert ([latest.get(name) for name in "acdef"], latest.n_bytes) == ([None, None, "D", "e", None], 100)


def test_the_latest_are_computed_once() -> None:
    latest: Latest[str] = Latest(most=2, most_bytes=3)
    computed: list[str] = []

    def found(name: str) -> str:
        def compute() -> str:
            computed.append(name)
            return name

        return latest.of(name, compute, len)

    assert [found(name) for name in ("a", "a", "four", "four", "b")] == ["a", "a", "four", "four", "b"]
    assert (computed, latest.n_bytes) == (["a", "four", "four", "b"], 2)
