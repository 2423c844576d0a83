"""The web application: routes, files of the page, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

import mnemoscope
from mnemoscope.api import Model
from mnemoscope.web import requests, responses
from mnemoscope.web.errors import DOCUMENT, ApiError, refusal_of_fields, refusal_of_http
from mnemoscope.web.handlers import MEDIA_TYPES
from mnemoscope.web.queue import Limits
from mnemoscope.web.security import Names, SecurityMiddleware
from mnemoscope.web.server import EVENTS, Asking, Server, json_response

_RETRY = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
_TO_RETRY = (429, 503)


def told(response: Any) -> dict[str, Any]:
    """Describe the responses of a route: JSON, or a line for each event."""
    lines = {"schema": {"type": "string", "description": "a JSON object on each line"}}
    return {"response_model": response, "responses": {200: {"content": {EVENTS: lines}}}}


def _errors(told: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": responses.Error, "description": text}
        | ({"headers": _RETRY} if status in _TO_RETRY else {})
        for status, text in told.items()
    }


ERRORS = _errors(
    {
        403: "Asked by another name than the server's, or by a page of another site.",
        413: "The body is too large.",
        415: "The body is not said to be JSON.",
    }
)
ERRORS_OF_CALLS = ERRORS | _errors(
    {
        400: "The model cannot answer this: told in the words of the command line.",
        408: "The body did not come.",
        409: "A newer request of the same client and lane took its place.",
        422: "A field is missing, unknown, of the wrong type or out of bounds.",
        429: "Too many requests of this client are waiting.",
        500: "A fault of the server.",
        503: "Too many requests are waiting, or this one took too long.",
    }
)
FILES: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "The file.",
            "content": {
                kind: {"schema": {"type": "object" if kind == "application/json" else "string"}}
                for kind in MEDIA_TYPES.values()
            },
        }
    },
}
DESCRIPTION = f"""Which neurons of a language model carry a fact, over HTTP.

Answers are the objects that the command line prints with `--json`. One call is computed at a time; the others
wait, and clients take turns. With `Accept: {EVENTS}` an answer is a line of JSON for every event: `queued`,
`progress`, `partial` (of `ablate`: the target, each control; of `methods`: each method), then `result` or
`error`. Errors are `{{"error", "remedy"}}`.
"""


STATIC = Path(__file__).parent / "static"


def make_app(
    models: Mapping[str, Model], names: Names | None = None, limits: Limits | None = None
) -> FastAPI:
    """Make the application for opened models.

    Args:
        models: models by name; the first is the default.
        names: accepted names of the server; those of this machine if None.
        limits: limits of the queue.
    """
    server = Server(models, limits or Limits())

    app = FastAPI(
        title="Mnemoscope",
        version=mnemoscope.__version__,
        description=DESCRIPTION,
        openapi_url=DOCUMENT,
        docs_url=None,
        redoc_url=None,
        lifespan=lambda _: server.queue.running(),
        redirect_slashes=False,
    )

    @app.get(
        "/api/models",
        name="models",
        response_model=responses.Models,
        responses=ERRORS,
        summary="The opened models, the methods and the limits",
    )
    async def about() -> Response:
        return json_response(server.about())

    app.include_router(_calling(server))
    app.add_api_route(
        "/", lambda: FileResponse(STATIC / "index.html"), methods=["GET", "HEAD"], include_in_schema=False
    )
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_exception_handler(RequestValidationError, partial(_refuse, refusal_of_fields))
    app.add_exception_handler(HTTPException, partial(_refuse, refusal_of_http))
    app.add_middleware(SecurityMiddleware, names=names or Names())
    return app


class Call(NamedTuple):
    """A route that calls a model.

    Attributes:
        summary: its title in the OpenAPI document.
        request: model of the body.
        response: model of the answer; None for a file.
        tells: whether the handler takes a receiver of partial results.
    """

    summary: str
    request: type[requests.PromptRequest]
    response: Any
    tells: bool = False


# By name, which is the path of the route and the handler of `Answers`.
CALLS = {
    "predict": Call("Tokens, and the likeliest next ones", requests.PredictRequest, responses.Prediction),
    "tokens": Call("The tokens of a target after a prompt", requests.TokensRequest, responses.TargetTokens),
    "neuron": Call("What an FFN neuron promotes and demotes", requests.NeuronRequest, responses.Neuron),
    "head": Call("What a head looks at and brings", requests.HeadRequest, responses.Head),
    "lens": Call("The likeliest token after each layer", requests.LensRequest, responses.Lens),
    "attribute": Call(
        "What raises or lowers a next token",
        requests.AttributeRequest,
        responses.Attribution | responses.Continuation,
    ),
    "charts": Call("The answer of attribute as Vega-Lite charts", requests.ChartsRequest, responses.Charts),
    "compare": Call(
        "The parts in two predictions, by difference", requests.CompareRequest, responses.PromptComparison
    ),
    "links": Call("What activates the value neurons, as a graph", requests.LinksRequest, responses.Links),
    "removed": Call(
        "The exact effect of removing each part alone", requests.RemovedRequest, responses.Removed
    ),
    "examples": Call(
        "The texts in which neurons are active", requests.ExamplesRequest, responses.NeuronExamples
    ),
    "ablate": Call("A target before and after an ablation", requests.AblateRequest, responses.Ablation, True),
    "methods": Call("Methods compared on a prompt", requests.MethodsRequest, responses.Comparison, True),
    "export": Call("The answer of attribute as a file", requests.ExportRequest, None),
    "export_comparison": Call("The answer of compare as a file", requests.ExportComparisonRequest, None),
}


def _calling(server: Server) -> APIRouter:
    """Make the routes that call a model, one call at a time."""
    routes = APIRouter(prefix="/api", responses=ERRORS_OF_CALLS)
    for name, call in CALLS.items():
        routes.add_api_route(
            f"/{name}",
            _replying(server, name, call),
            methods=["POST"],
            name=name,
            summary=call.summary,
            **(FILES if call.response is None else told(call.response)),
        )
    return routes


def _replying(server: Server, name: str, call: Call) -> Callable[..., Awaitable[Response]]:
    handler = getattr(server.answers, name)
    answer = handler if call.tells else lambda model, body, _: handler(model, body)

    async def reply(request: requests.PromptRequest, caller: Asking) -> Response:
        return server.reply(caller, request, answer, caller.events and call.response is not None)

    # FastAPI reads the body's model here.
    reply.__annotations__["request"] = call.request
    return reply


async def _refuse(refusal: Callable[[Any], ApiError], _: Request, error: Any) -> Response:
    """Answer an error of the framework with JSON; all others are answered by the security middleware."""
    return refusal(error).response()
