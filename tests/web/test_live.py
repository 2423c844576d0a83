"""A real server: events as they happen, clients that go away or change their mind, many at once."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from typing import Any

import httpx
import pytest

import mnemoscope as ms
from mnemoscope.model.isolation import isolated
from mnemoscope.testing import words
from mnemoscope.web.queue import Limits
from served import PROMPT, Gate, live

EVENTS = {"Accept": "application/x-ndjson"}
N_CLIENTS = 50
SECONDS = 3


def until(happened: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_events_come_while_the_model_runs(llama: ms.Model, gate: Gate) -> None:
    gate.close()
    with (
        live(llama) as address,
        httpx.stream("POST", f"{address}api/predict", json={"prompt": PROMPT}, headers=EVENTS) as answer,
    ):
        lines = answer.iter_lines()
        assert json.loads(next(lines)) == {"event": "queued", "ahead": 0}
        assert gate.reached.wait(10)
        progress = json.loads(next(lines))
        assert (progress["event"], progress["blocks_run"], gate.n_blocks) == ("progress", 0, 0)
        gate.open()
        last = json.loads(list(lines)[-1])
    assert last["event"] == "result"
    assert last["result"]["tokens"] == PROMPT.split()


def test_a_call_that_waits_for_the_model_disturbs_nobody_who_uses_it(llama: ms.Model) -> None:
    blocks = [block.module for block in llama.language_model.structure.blocks]
    n_hooks = [len(block._forward_pre_hooks) for block in blocks]
    expected = llama.predict(PROMPT, top=3).table
    with live(llama) as address:
        with isolated(llama.language_model.model):
            with httpx.stream("POST", f"{address}api/predict", json={"prompt": PROMPT}, headers=EVENTS):
                until(lambda: len(blocks[-1]._forward_pre_hooks) > n_hooks[-1])
            for _ in range(20):  # until the server has noticed that the client went away
                assert llama.predict(PROMPT, top=3).table.equals(expected)
                time.sleep(0.02)
        until(lambda: [len(block._forward_pre_hooks) for block in blocks] == n_hooks)


@pytest.mark.parametrize("headers", [EVENTS, {}], ids=["events", "JSON"])
def test_a_client_that_goes_away_stops_its_call(llama: ms.Model, gate: Gate, headers: dict[str, str]) -> None:
    gate.close()
    body = json.dumps({"prompt": PROMPT, "methods": ["coefficient"]}).encode()
    with live(llama) as address:
        host, port = httpx.URL(address).host, httpx.URL(address).port
        head = f"POST /api/methods HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection((host, port or 0)) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert gate.reached.wait(10)
        time.sleep(0.3)  # until the server has noticed
        gate.open()
        answer = httpx.post(f"{address}api/predict", json={"prompt": PROMPT})
        assert answer.status_code == 200
    # The held block, and those of the one pass that `predict` takes: nothing more of the abandoned call.
    assert gate.n_blocks == 1 + llama.n_layers


def test_the_first_event_counts_turns(llama: ms.Model, gate: Gate) -> None:
    """Of a client with two waiting calls, one comes before the first call of another client."""

    def ask(client: httpx.AsyncClient, number: int) -> asyncio.Task[httpx.Response]:
        headers = {"X-Mnemoscope-Client": "greedy"}
        return asyncio.ensure_future(
            client.post("api/predict", json={"prompt": words(number)}, headers=headers)
        )

    async def play(address: str) -> str:
        async with httpx.AsyncClient(base_url=address, timeout=20) as client:
            asked = [ask(client, 5)]
            await asyncio.to_thread(gate.reached.wait, 10)
            asked += [ask(client, 6), ask(client, 7)]
            await asyncio.sleep(0.2)
            headers = {"X-Mnemoscope-Client": "modest", **EVENTS}
            request = {"json": {"prompt": words(8)}, "headers": headers}
            async with client.stream("POST", "api/predict", **request) as answer:
                lines = answer.aiter_lines()
                first = await anext(lines)
                gate.open()
                async for _ in lines:
                    pass
            await asyncio.gather(*asked)
            return first

    gate.close()
    with live(llama) as address:
        first = asyncio.run(play(address))
    assert json.loads(first) == {"event": "queued", "ahead": 2}


def test_a_newer_request_takes_the_place_of_an_older_one(llama: ms.Model, gate: Gate) -> None:
    def ask(client: httpx.AsyncClient, number: int, lane: str) -> asyncio.Task[httpx.Response]:
        headers = {"X-Mnemoscope-Client": "somebody", "X-Mnemoscope-Lane": lane}
        method_input = client.post("api/predict", json={"prompt": words(number)}, headers=headers)
        return asyncio.ensure_future(method_input)

    async def play(address: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=address, timeout=20) as client:
            asked = [ask(client, 5, "typing")]
            await asyncio.to_thread(gate.reached.wait, 10)
            for number, lane in ((6, "typing"), (7, "bench"), (8, "typing")):
                asked.append(ask(client, number, lane))
                await asyncio.sleep(0.1)
            gate.open()
            return [await each for each in asked]

    gate.close()
    with live(llama) as address:
        answers = asyncio.run(play(address))
    assert [answer.status_code for answer in answers] == [409, 409, 200, 200]
    assert "a newer request" in answers[0].json()["error"]
    assert gate.n_blocks == 1 + 2 * llama.n_layers


def test_an_answer_that_is_at_hand_takes_the_place_of_an_older_request_too(
    llama: ms.Model, gate: Gate
) -> None:
    async def play(address: str) -> tuple[httpx.Response, httpx.Response]:
        headers = {"X-Mnemoscope-Client": "somebody", "X-Mnemoscope-Lane": "typing"}
        async with httpx.AsyncClient(base_url=address, timeout=20, headers=headers) as client:
            await client.post("api/predict", json={"prompt": PROMPT})
            gate.close()
            older = asyncio.ensure_future(client.post("api/predict", json={"prompt": words(5)}))
            await asyncio.to_thread(gate.reached.wait, 10)
            newer = await client.post("api/predict", json={"prompt": PROMPT})
            return await older, newer

    with live(llama) as address:
        older, newer = asyncio.run(play(address))
        gate.open()
    assert (older.status_code, newer.status_code) == (409, 200)


def test_a_call_that_takes_too_long_is_answered_before_it_ends(llama: ms.Model, gate: Gate) -> None:
    gate.close()
    with live(llama, Limits(seconds=0.2)) as address:
        answer = httpx.post(f"{address}api/predict", json={"prompt": PROMPT})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        gate.open()
        until(lambda: httpx.post(f"{address}api/predict", json={"prompt": "w5"}).status_code == 200)


def test_the_page_is_there_while_the_model_is_busy(llama: ms.Model, gate: Gate) -> None:
    gate.close()
    with (
        live(llama) as address,
        httpx.stream("POST", f"{address}api/predict", json={"prompt": PROMPT}, headers=EVENTS),
    ):
        assert gate.reached.wait(10)
        for path in ("", "static/page.js", "static/base.css", "api/models"):
            assert httpx.get(f"{address}{path}").status_code == 200
        gate.open()


def test_many_clients_at_once_are_answered_or_told_when_to_come_again(llama: ms.Model) -> None:
    found: Counter[int] = Counter()

    async def one(client: httpx.AsyncClient, number: int, begun: float) -> None:
        n_asked = 0
        # A busy machine takes longer until each client can have had an answer.
        while time.monotonic() - begun < (SECONDS if found[200] > N_CLIENTS else 10 * SECONDS):
            n_asked += 1
            prompt = words(3 + number, 3 + n_asked % 90)
            answer = await client.post(
                "api/predict", json={"prompt": prompt}, headers={"X-Mnemoscope-Client": f"client-{number}"}
            )
            found[answer.status_code] += 1
            if answer.status_code in (429, 503):
                assert int(answer.headers["retry-after"]) >= 1
                await asyncio.sleep(0.2)
            else:
                assert answer.json()["prompt"] == prompt

    async def play(address: str) -> None:
        limits = httpx.Limits(max_connections=N_CLIENTS)
        async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits) as client:
            begun = time.monotonic()
            await asyncio.gather(*(one(client, number, begun) for number in range(N_CLIENTS)))

    with live(llama) as address:
        asyncio.run(play(address))
        assert httpx.get(address).status_code == 200
    assert set(found) <= {200, 429, 503}
    assert found[200] > N_CLIENTS
