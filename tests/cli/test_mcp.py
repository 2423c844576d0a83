"""`mnemoscope mcp` as an agent starts it, over stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from importlib import util
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

import mnemoscope as ms
from command_line import COMMAND, printed, refused
from mnemoscope.web.mcp import TOOLS

QUESTION = {"prompt": "The capital of Japan is the city of", "target": " Tokyo"}
NOWHERE = "no/such"
PYTHON, *ARGUMENTS = [*COMMAND, "mcp", "--model", "demo"]
SERVER = StdioServerParameters(command=PYTHON, args=ARGUMENTS, env=dict(os.environ))
PAIRS = [
    {
        "clean": f"The {one} near the door",
        "counterfactual": f"The {many} near the door",
        "answer": " is",
        "counterfactual_answer": " are",
    }
    for one, many in (("boy", "boys"), ("girl", "girls"), ("car", "cars"), ("dog", "dogs"))
]


@pytest.mark.process
@pytest.mark.nightly  # on each push tests/web/test_mcp asks a tiny model
def test_every_tool_answers_about_the_demo_model(demo: ms.Model) -> None:
    async def ask() -> dict[str, Any]:
        async with Client(SERVER) as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == list(TOOLS)
            found: dict[str, Any] = {}

            async def call(tool: str, **arguments: Any) -> None:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, result.content
                found[tool] = result.structured_content

            await call("predict", prompt=QUESTION["prompt"], top=3)
            await call("attribute", **QUESTION)
            rows = found["attribute"]["ffn_neurons"]
            parts = [{"part": "FFNNeuron", "layer": row["layer"], "neuron": row["neuron"]} for row in rows]
            await call("neuron", layer=rows[0]["layer"], neuron=rows[0]["neuron"], top=5)
            await call("ablate", **QUESTION, parts=parts, seeds=1)
            unknown = await client.call_tool("predict", {"prompt": "Hi", "model": "/etc/passwd"})
            assert unknown.is_error
            return found

    found = asyncio.run(ask())
    best = demo.predict(QUESTION["prompt"], 1).table["token"][0]
    assert found["predict"]["predictions"][0]["token"] == best
    result = demo.attribute(QUESTION["prompt"], QUESTION["target"], top=10, query=False)
    for ours, theirs in zip(found["attribute"]["ffn_neurons"], result.ffn_neurons.itertuples(), strict=True):
        assert (ours["layer"], ours["neuron"]) == (theirs.layer, theirs.neuron)
    assert found["ablate"]["after"]["log_probability"] < found["ablate"]["before"]["log_probability"] - 1


@pytest.mark.process
@pytest.mark.nightly
def test_circuits_are_found_in_the_demo_model(demo: ms.Model) -> None:
    async def ask() -> Any:
        async with Client(SERVER) as client:
            return await client.call_tool("circuit", {"pairs": PAIRS, "positions": True, "size": 20})

    found = asyncio.run(ask())
    assert not found.is_error, found.content
    nodes = found.structured_content["nodes"]
    assert len(nodes) == 20
    pairs = [ms.Pair(**pair) for pair in PAIRS]
    expected = demo.circuit(pairs, positions=True, size=20).nodes
    assert [node["neuron"] for node in nodes] == expected["neuron"].tolist()


@pytest.mark.process
def test_stdout_carries_the_protocol_alone_and_ctrl_c_ends_the_server(llama_folder: str) -> None:
    opening = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "0"},
        },
    }
    command = [*COMMAND, "mcp", "--model", llama_folder]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        unreadable = [
            "no JSON",
            *(
                json.dumps({**opening, "params": "HERE"}).replace('"HERE"', text)
                for text in ('{"prompt": "\\ud800"}', "9" * 5000, "[" * 5000 + "]" * 5000)
            ),
        ]
        process.stdin.write("\n".join([*unreadable, json.dumps(opening), ""]))
        process.stdin.flush()
        for _ in unreadable:
            refusal = json.loads(process.stdout.readline())
            assert (refusal["jsonrpc"], refusal["id"], refusal["error"]["code"]) == ("2.0", None, -32700)
        first = json.loads(process.stdout.readline())
        assert first["id"] == 1
        assert first["result"]["serverInfo"]["name"] == "mnemoscope"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (-signal.SIGINT, "")


def test_help_ends_with_an_example() -> None:
    assert printed("mcp", "--help").rstrip().splitlines()[-1].strip() == "mnemoscope mcp --model demo"


def test_mistakes_are_told_before_the_protocol_begins() -> None:
    assert f"--model {NOWHERE} is given twice" in refused("mcp", "--model", NOWHERE, "--model", NOWHERE)
    assert NOWHERE in refused("mcp", "--model", NOWHERE)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    monkeypatch.setattr("mnemoscope.cli.serve.find_spec", util.find_spec)
    assert "run `pip install '.[mcp]'`" in refused("mcp")
