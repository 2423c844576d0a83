"""The tools for agents, asked by the protocol's own client in this process."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import jsonschema
import pytest
from mcp import Client
from mcp_types import CallToolResult, Tool

import mnemoscope as ms
from circuit_tasks import told_apart
from mnemoscope._io import json_text
from mnemoscope.web.mcp import MOST_TOP, TOOLS, make_server
from mnemoscope.web.queue import Limits
from served import PROMPT, watched

PAIR = {"clean": PROMPT, "counterfactual": PROMPT, "answer": " w8", "counterfactual_answer": " w9"}
HEAD = {"part": "Head", "layer": 1, "head": 0}
REQUESTS: dict[str, dict[str, Any]] = {
    "predict": {"prompt": PROMPT, "top": 4},
    "attribute": {"prompt": PROMPT, "target": " w40", "top": 3},
    "compare": {"prompt_a": PROMPT, "prompt_b": "w5 w6", "target_a": " w40", "top": 3},
    "neuron": {"layer": 1, "neuron": 3, "top": 4},
    "ablate": {"prompt": PROMPT, "parts": [HEAD], "seeds": 1},
}


@pytest.fixture(scope="module")
def asked(llama: ms.Model) -> dict[str, dict[str, Any]]:
    """Arguments of a call of every tool."""
    return {**REQUESTS, "circuit": {"pairs": [vars(pair) for pair in told_apart(llama, 6)], "size": 5}}


def called(opened: ms.Model, tool: str, /, **arguments: Any) -> CallToolResult:
    async def call() -> CallToolResult:
        async with Client(make_server({"tiny": opened, "other": opened})) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(call())


def answered(opened: ms.Model, tool: str, /, **arguments: Any) -> dict[str, Any]:
    result = called(opened, tool, **arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


def refused(opened: ms.Model, tool: str, /, **arguments: Any) -> str:
    """The one line of a refusal."""
    result = called(opened, tool, **arguments)
    assert result.is_error
    assert result.structured_content is None
    (content,) = result.content
    assert content.type == "text"
    assert content.text.isprintable()
    assert json.loads(content.text).keys() <= {"error", "remedy"}
    return content.text


def listed(model: ms.Model) -> dict[str, Tool]:
    async def ask() -> list[Tool]:
        async with Client(make_server({"tiny": model})) as client:
            return (await client.list_tools()).tools

    return {tool.name: tool for tool in asyncio.run(ask())}


def test_tools_are_listed_with_what_they_take_and_what_their_numbers_mean(
    llama: ms.Model, asked: dict[str, dict[str, Any]]
) -> None:
    tools = listed(llama)
    assert list(tools) == list(TOOLS) == list(asked)
    for name, tool in tools.items():
        assert tool.description == f"{TOOLS[name].description} {TOOLS[name].meaning}"
        assert tool.input_schema["properties"]["model"]["anyOf"] == [{"enum": ["tiny"]}, {"type": "null"}]
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        jsonschema.validate(asked[name], tool.input_schema)


@pytest.mark.parametrize("tool", TOOLS)
def test_answers_keep_their_schema_and_say_what_they_mean(
    llama: ms.Model, asked: dict[str, dict[str, Any]], tool: str
) -> None:
    result = called(llama, tool, **asked[tool])
    jsonschema.validate(result.structured_content, listed(llama)[tool].output_schema)
    found = result.structured_content
    assert found is not None
    assert (next(iter(found)), found["meaning"]) == ("meaning", TOOLS[tool].meaning)
    (content,) = result.content
    assert content.type == "text"
    assert json.loads(content.text) == found


def test_answers_are_the_command_lines(llama: ms.Model, asked: dict[str, dict[str, Any]]) -> None:
    result = llama.attribute(PROMPT, " w40", top=3, query=False, suppressing=False).to_json()
    compared = llama.compare(PROMPT, "w5 w6", target_a=" w40", top=3).to_json()
    expected = {
        "predict": llama.predict(PROMPT, 4).to_json(),
        "attribute": {**result, "heads": result["heads"][:3]},
        "compare": {**compared, "heads": compared["heads"][:3]},
        "neuron": llama.neuron_tokens(1, 3, 4).to_json(),
        "circuit": {**llama.circuit(asked["circuit"]["pairs"], size=5).to_json(), "train": [], "test": []},
    }
    for tool, by_library in expected.items():
        found = answered(llama, tool, **asked[tool])
        assert found.pop("meaning")
        if tool == "predict":
            assert found.pop("shown") == found["tokens"]
            assert found.pop("joined") == []
            assert [row.pop("shown") for row in found["predictions"]]
        assert found == json.loads(json_text(by_library))


def test_targets_of_several_tokens_are_bounded_too(llama: ms.Model) -> None:
    found = answered(llama, "attribute", prompt=PROMPT, target=" w40 w41", top=2)
    jsonschema.validate(found, listed(llama)["attribute"].output_schema)
    assert [len(each["heads"]) for each in (found, *found["attributions"])] == [2, 2, 2]
    assert [len(each["heads_by_position"]) for each in found["attributions"]] == [2, 2]


@pytest.mark.parametrize(
    ("tool", "arguments", "line"),
    [
        ("predict", {"prompt": "w1 " * 10_000}, "prompt: String should have at most 20000 characters"),
        ("predict", {"prompt": "w1 " * 100}, "the prompt has 100 tokens but the model reads at most 64"),
        ("predict", {"prompt": ""}, "type a prompt first"),
        ("predict", {}, "prompt: Field required"),
        ("predict", {"prompt": 5}, "prompt: Input should be a valid string"),
        ("predict", {"prompt": PROMPT, "top": -1}, "top: Input should be greater than or equal to 1"),
        ("predict", {"prompt": PROMPT, "top": "3"}, "top: Input should be a valid integer"),
        ("predict", {"prompt": PROMPT, "top": 10**9}, "top: Input should be less than or equal to 200"),
        ("attribute", {"prompt": PROMPT, "top": MOST_TOP + 1}, f"less than or equal to {MOST_TOP}"),
        ("predict", {"prompt": PROMPT, "model": "gpt2"}, "no model of that name is open; give one of 'tiny'"),
        ("predict", {"prompt": PROMPT, "model": "/etc"}, "no model of that name is open"),
        ("neuron", {"layer": 0, "neuron": 0, "model": "../x"}, "no model of that name is open"),
        ("predict", {"prompt": "w1\x1b[2J"}, "a text holds the control character U+001B; remove it"),
        ("predict", {"prompt": "w1\0"}, "a text holds the control character U+0000; remove it"),
        ("predict", {"prompt": PROMPT, "x\x07": 1}, "a text holds the control character U+0007"),
        ("attribute", {"prompt": PROMPT, "target": ["a", "\x9b"]}, "the control character U+009B"),
        ("predict", {"prompt": PROMPT, "out": "/tmp/x"}, "out: Extra inputs are not permitted"),
        ("ablate", {"prompt": PROMPT, "parts": [HEAD] * 501}, "parts: List should have at most 500 items"),
        ("ablate", {"prompt": PROMPT, "parts": [HEAD], "factor": "nan"}, "factor: Input should be a valid"),
        ("neuron", {"layer": 99, "neuron": 0}, "layer"),
        ("circuit", {"pairs": []}, "pairs: List should have at least 4 items"),
        ("circuit", {"pairs": [PAIR] * 41}, "pairs: List should have at most 40 items"),
        ("circuit", {"pairs": [PAIR | {"answer": " w9"}] * 4}, "answer"),
        ("circuit", {"pairs": [PAIR | {"answer": 9}] * 4}, "pairs.0.answer: Input should be a valid string"),
        ("circuit", {"pairs": [PAIR | {"counterfactual": "w5"}] * 4}, "tokens"),
        ("circuit", {"pairs": "/etc/passwd"}, "pairs: Input should be a valid list"),
        ("shell\n\x1b", {"command": "ls"}, "there is no tool of that name; call one of predict, attribute"),
    ],
)
def test_hostile_calls_are_refused_in_one_line(
    llama: ms.Model, tool: str, arguments: dict[str, Any], line: str
) -> None:
    assert line in refused(llama, tool, **arguments)


def test_faults_are_told_without_ending_the_server(
    llama: ms.Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ms.Model, "neuron_tokens", lambda *_: 1 / 0)
    assert "this is a fault of Mnemoscope" in refused(llama, "neuron", layer=0, neuron=0)
    assert "ZeroDivisionError" in caplog.text


def test_a_call_that_takes_too_long_ends(llama: ms.Model) -> None:
    async def call() -> CallToolResult:
        async with Client(make_server({"tiny": llama}, Limits(seconds=0.2))) as client:
            calling = asyncio.ensure_future(client.call_tool("predict", {"prompt": PROMPT}))
            while not gate.reached.is_set():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.4)
            gate.open()
            return await calling

    with watched(llama) as gate:
        gate.close()
        result = asyncio.run(call())
    assert result.is_error
    assert "0.2" in json_text([each.model_dump() for each in result.content])


def test_the_page_describes_the_tools(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.syspath_prepend(str(request.config.rootpath / "docs"))
    sys.modules.pop("make_mcp", None)
    import make_mcp

    assert make_mcp.PAGE.read_text(encoding="utf-8") == make_mcp.page()
