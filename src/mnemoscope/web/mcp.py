"""Tools for agents over the Model Context Protocol, answered by the handlers of the HTTP API.

Each tool takes the fields of a request of the API and returns the object that the command line prints with
`--json`, with a sentence on its numbers in front (`meaning`). A refusal is one line: the API's `{"error",
"remedy"}`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import (
    PARSE_ERROR,
    CallToolRequestParams,
    CallToolResult,
    ErrorData,
    JSONRPCError,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

import mnemoscope
from mnemoscope._io import json_text
from mnemoscope.api import Model
from mnemoscope.errors import OptionError
from mnemoscope.results.circuit import AblationValue, CircuitKind
from mnemoscope.web import requests, responses
from mnemoscope.web.errors import refusal_of, refusal_of_fields
from mnemoscope.web.handlers import Answers, answer_text, stepping
from mnemoscope.web.models import model_named
from mnemoscope.web.queue import Call, FairQueue, Limits

INSTRUCTIONS = (
    "Finds which neurons and heads of a language model raise or lower a next token. Call `attribute` for a "
    "ranking, then `ablate` to see whether removing its parts changes the prediction: scores are estimates, "
    "an ablation is a measurement. Layers, heads and neurons count from 0."
)
_UNREADABLE = (
    "the line cannot be read as a message of JSON-RPC; send one JSON object, without lone surrogates, "
    "numbers of thousands of digits or brackets nested hundreds deep"
)
MOST_TOP = 50
# Of a circuit: each pair costs some thirty passes, and an agent reads every node.
MOST_PAIRS = 40
MOST_NODES = 200


class AttributeRequest(requests.Question):
    """Request of the parts that raise the target; fewer rows than the API gives, as agents read every one."""

    top: int = Field(10, ge=1, le=MOST_TOP, description="How many heads, and neurons of each kind, to list.")
    query: bool = Field(False, description="Also find what activates the value neurons.")
    effects: bool = Field(True, description="Also give total effects.")


def attribute(answers: Answers, model: Model, request: AttributeRequest) -> dict[str, Any]:
    """Return the object of `mnemoscope attribute --json` with the first `top` heads."""
    result = answers.attributed(model, requests.AttributeRequest(**request.model_dump(), suppressing=False))
    found = result.to_json()
    for each in (found, *found.get("attributions", ()), *found.get("against_attributions", ())):
        each["heads"] = each["heads"][: request.top]
    return found


class CompareRequest(requests.CompareRequest):
    """Request of a comparison of two prompts, with fewer rows than the API gives."""

    top: int = Field(
        10,
        ge=1,
        le=MOST_TOP,
        description="How many heads to list, and neurons of each kind and direction for each prompt.",
    )


def compare(answers: Answers, model: Model, request: CompareRequest) -> dict[str, Any]:
    """Return the object of `mnemoscope compare --json` with the first `top` heads."""
    found = answers.compare(model, request)
    return {**found, "heads": found["heads"][: request.top]}


class CircuitPair(requests.Strict):
    """Clean prompt and counterfactual prompt of as many tokens, with an answer of one token each."""

    clean: requests.PromptText
    counterfactual: requests.PromptText
    answer: requests.TargetText
    counterfactual_answer: requests.TargetText


class CircuitRequest(requests.PromptRequest):
    """Request of a circuit; every second pair is held out to measure with."""

    pairs: list[CircuitPair] = Field(
        min_length=4, max_length=MOST_PAIRS, description="Pairs of prompts that differ in the answer."
    )
    method: Literal["relp", "atp", "direct", "greedy"] = Field(
        "relp", description="Score that ranks the nodes; greedy searches, which takes longest."
    )
    kinds: list[CircuitKind] = Field(
        default_factory=lambda: ["ffn"],
        min_length=1,
        max_length=3,
        description="Kinds of nodes, ffn if not given; all other parts run as usual.",
    )
    size: int | None = Field(
        None,
        ge=1,
        le=MOST_NODES,
        description="Number of nodes; if not given, the fewest with faithfulness 0.9.",
    )
    ablation: AblationValue = Field(
        "mean",
        description="Value of the nodes outside: mean over counterfactual prompts, the pair's own, or 0.",
    )
    positions: bool = Field(
        False, description="Give each position nodes of its own; all prompts need one length."
    )


def circuit(answers: Answers, model: Model, request: CircuitRequest) -> dict[str, Any]:
    """Return the object of `mnemoscope circuit find --json` with the first nodes and without the pairs."""
    asked = request.model_dump(exclude={"model"})
    told = model.circuit(asked.pop("pairs"), **asked).to_json()
    nodes = told["nodes"][:MOST_NODES]
    kept = range(len(nodes))
    edges = [edge for edge in told["edges"] if edge["source"] in kept and edge["target"] in kept]
    return {**told, "nodes": nodes, "edges": edges, "train": [], "test": []}


@dataclass(frozen=True)
class AgentTool:
    """A tool.

    Attributes:
        name: name of the tool.
        description: its use, for the agent.
        meaning: a sentence on the numbers of every result.
        request: fields of a call.
        response: objects that it returns, one of them.
        answer: computes the object.
    """

    name: str
    description: str
    meaning: str
    request: type[requests.PromptRequest]
    response: tuple[type[BaseModel], ...]
    answer: Callable[[Answers, Model, Any], dict[str, Any]]

    def listed(self, models: Mapping[str, Model]) -> Tool:
        """Return the tool as the protocol lists it; `model` is one of the opened models."""
        fields = self.request.model_json_schema()
        fields["properties"]["model"] |= {"anyOf": [{"enum": list(models)}, {"type": "null"}]}
        meaning: Any = (Annotated[str, Field(description="What the numbers mean.")], ...)
        objects = (create_model(each.__name__, __base__=each, meaning=meaning) for each in self.response)
        return Tool(
            name=self.name,
            description=f"{self.description} {self.meaning}",
            input_schema=fields,
            output_schema={"type": "object", **TypeAdapter(reduce(or_, objects)).json_schema()},
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        )


TOOLS = {
    tool.name: tool
    for tool in (
        AgentTool(
            "predict",
            "List the likeliest next tokens of a prompt.",
            "Each `probability` is the model's probability of the token right after the prompt, and "
            "`log_probability` its natural logarithm (nats).",
            requests.PredictRequest,
            (responses.Prediction,),
            Answers.predict,
        ),
        AgentTool(
            "attribute",
            "Rank the layers, heads and neurons that raise a next token; all layers are listed, and the "
            "first `top` heads and neurons.",
            "`direct` is the log-probability increase of the target (of the log-odds with `against`) by what "
            "the part adds to the residual stream, in nats, positive if it raises the target; `total` is a "
            "first-order estimate of removing the part, and `mediated` its effect through later layers; to "
            "know what removal does, ablate.",
            AttributeRequest,
            (responses.PrintedAttribution, responses.Continuation),
            attribute,
        ),
        AgentTool(
            "compare",
            "Rank the layers, heads and neurons by how their scores differ between two prompts, A and B.",
            "`a` and `b` are the log-probability increase of each prompt's own target by what the part adds "
            "to the residual stream, in nats, positive if it raises the target; `diff` is `b - a`, whose "
            "magnitude orders the rows; neurons without a row differ by at most `unlisted`.",
            CompareRequest,
            (responses.PromptComparison,),
            compare,
        ),
        AgentTool(
            "neuron",
            "List the tokens that an FFN neuron promotes and demotes, itself or through a head above it.",
            "Each `value` is a before-softmax value (logit) that one unit of the neuron's coefficient adds "
            "to a token; it describes the weights and no prompt, and a negative coefficient swaps the lists.",
            requests.NeuronRequest,
            (responses.Neuron,),
            Answers.neuron,
        ),
        AgentTool(
            "ablate",
            "Remove or scale parts and measure the target before and after, beside random controls.",
            "`before` and `after` are measured with the parts as they are and changed (`log_probability` in "
            "nats); the change counts as the parts' own only where it is far larger than `controls_mean`, "
            "the same change of random parts, and `plain_text.kl` (nats per token) is its damage to other "
            "text.",
            requests.AblateRequest,
            (responses.Ablation,),
            Answers.ablate,
        ),
        AgentTool(
            "circuit",
            f"Find a small set of nodes that alone does what the model does on pairs of prompts; the first "
            f"{MOST_NODES} nodes are listed, the pairs are not repeated.",
            "`faithfulness` is the share of the logit difference between the two answers that is left with "
            "only the circuit (1 = as the model), and `completeness` that without it (0 = nothing was left "
            "out), both on pairs held out, each with its interval; a node's `score` only ranks it.",
            CircuitRequest,
            (responses.Circuit,),
            circuit,
        ),
    )
}


def make_server(models: Mapping[str, Model], limits: Limits | None = None) -> Server[Any]:
    """Make the server of opened models.

    Args:
        models: models by name; the first is the default, and no other can be named.
        limits: limits of the queue.
    """
    answers, queue = Answers(), FairQueue(limits or Limits())

    async def list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[tool.listed(models) for tool in TOOLS.values()])

    async def call_tool(_: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        try:
            found = await _answer(models, answers, queue, params)
        except ValidationError as error:
            return _refused(refusal_of_fields(error, "see the tool's input schema").to_json())
        except Exception as error:  # noqa: BLE001 - an agent is told of every failure
            return _refused(refusal_of(error).to_json())
        return CallToolResult(content=[TextContent(text=json_text(found))], structured_content=found)

    return Server(
        "mnemoscope",
        version=mnemoscope.__version__,
        title="Mnemoscope",
        instructions=INSTRUCTIONS,
        lifespan=lambda _: queue.running(),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def serve(models: Mapping[str, Model], limits: Limits) -> None:
    """Answer on stdin and stdout until stdin ends; other output of the process goes to stderr."""
    server = make_server(models, limits)
    async with stdio_server() as (requested, answered), anyio.create_task_group() as tasks:
        readable, received = anyio.create_memory_object_stream[SessionMessage | Exception]()
        tasks.start_soon(_refuse_unreadable, requested, readable, answered.send)
        await server.run(received, answered, server.create_initialization_options())


async def _refuse_unreadable(
    requested: AsyncIterable[SessionMessage | Exception],
    readable: MemoryObjectSendStream[SessionMessage | Exception],
    answer: Callable[[SessionMessage], Awaitable[None]],
) -> None:
    """Pass messages on, and answer lines that are none, which the SDK leaves without an answer."""
    error = ErrorData(code=PARSE_ERROR, message=_UNREADABLE)
    async with readable:
        async for message in requested:
            if isinstance(message, Exception):
                await answer(SessionMessage(JSONRPCError(jsonrpc="2.0", id=None, error=error)))
            else:
                await readable.send(message)


async def _answer(
    models: Mapping[str, Model], answers: Answers, queue: FairQueue, params: CallToolRequestParams
) -> dict[str, Any]:
    """Compute the result of a call on the worker thread; a call that is cancelled ends at its next block.

    Raises:
        ValidationError: a field is missing, unknown, of the wrong type or out of bounds.
        MnemoscopeError: no such tool or model, or the model cannot answer.
        ApiError: too many calls are waiting, or this one took too long.
    """
    tool = TOOLS.get(params.name)
    if tool is None:
        raise OptionError(f"there is no tool of that name; call one of {', '.join(TOOLS)}")
    _check_characters(params.arguments or {})
    request = tool.request.model_validate(params.arguments or {})
    model = model_named(models, request.model)

    def work(call: Call[dict[str, Any]]) -> dict[str, Any]:
        with stepping(model, call.step):
            found = tool.answer(answers, model, request)
        return json.loads(answer_text(found))

    call = queue.submit("agent", None, work)
    try:
        return {"meaning": tool.meaning, **await call.outcome}
    finally:
        queue.stop(call)


def _check_characters(value: Any) -> None:
    """Refuse control characters but for tab and line breaks, in all texts of a call.

    Raises:
        OptionError: there is one.
    """
    if isinstance(value, str):
        for character in value:
            if unicodedata.category(character) == "Cc" and character not in "\t\n\r":
                raise OptionError(f"a text holds the control character U+{ord(character):04X}; remove it")
    elif isinstance(value, dict):
        _check_characters([*value, *value.values()])
    elif isinstance(value, list):
        for each in value:
            _check_characters(each)


def _refused(told: dict[str, Any]) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=json_text(told))], is_error=True)
