"""The application: routes from requests to answers, the page's files, and the guard around them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

import mnemoscope
from mnemoscope.api import Model
from mnemoscope.errors import OptionError
from mnemoscope.web import requests, responses
from mnemoscope.web.answers import json_answer
from mnemoscope.web.document import DESCRIPTION, ERRORS, ERRORS_OF_CALLS, FILES, told
from mnemoscope.web.fair_queue import Limits
from mnemoscope.web.guard import Guard, Names
from mnemoscope.web.refusals import (
    DOCUMENT,
    Refused,
    refusal_of,
    refusal_of_fields,
    refusal_of_http,
)
from mnemoscope.web.replies import answered
from mnemoscope.web.server import Asking, Server

STATIC = Path(__file__).parent / "static"


def make_app(
    models: Mapping[str, Model], names: Names | None = None, limits: Limits | None = None
) -> FastAPI:
    """The application for opened models.

    Args:
        models: by the names that requests may give; the first answers where none is given.
        names: that the server may be reached by; those of this machine alone if None.
        limits: of the queue.
    """
    server = Server(models, limits or Limits())

    @asynccontextmanager
    async def serving(_: FastAPI) -> AsyncIterator[None]:
        working = asyncio.ensure_future(server.queue.serve())
        try:
            yield
        finally:
            server.queue.close()
            working.cancel()

    app = FastAPI(
        title="Mnemoscope",
        version=mnemoscope.__version__,
        description=DESCRIPTION,
        openapi_url=DOCUMENT,
        docs_url=None,
        redoc_url=None,
        lifespan=serving,
        redirect_slashes=False,
    )
    app.include_router(_about(server))
    app.include_router(_asking(server))
    app.add_api_route("/", lambda: FileResponse(STATIC / "index.html"), include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    _tell_refusals(app)
    app.add_middleware(Guard, names=names or Names())
    return app


def _about(server: Server) -> APIRouter:
    """What there is, without asking a model."""
    routes = APIRouter(prefix="/api", responses=ERRORS)

    @routes.get(
        "/models", response_model=responses.Models, summary="The opened models, the methods and the limits"
    )
    async def models() -> Response:
        return answered(json_answer(server.about()), events=False)

    return routes


def _asking(server: Server) -> APIRouter:
    """What is asked of a model, one call at a time."""
    routes = APIRouter(prefix="/api", responses=ERRORS_OF_CALLS)
    answers = server.answers

    @routes.post("/predict", summary="Tokens, and the likeliest next ones", **told(responses.Prediction))
    async def predict(asked: requests.PredictRequest, caller: Asking) -> Response:
        return server.reply(caller, asked, answers.predict, caller.events)

    @routes.post(
        "/attribute",
        summary="What raises or lowers a next token",
        **told(responses.Attribution | responses.Continuation),
    )
    async def attribute(asked: requests.AttributeRequest, caller: Asking) -> Response:
        return server.reply(caller, asked, answers.attribute, caller.events)

    @routes.post("/charts", summary="The answer of attribute as Vega-Lite charts", **told(responses.Charts))
    async def charts(asked: requests.ChartsRequest, caller: Asking) -> Response:
        return server.reply(caller, asked, answers.charts, caller.events)

    @routes.post("/links", summary="What activates the value neurons, as a graph", **told(responses.Links))
    async def links(asked: requests.LinksRequest, caller: Asking) -> Response:
        return server.reply(caller, asked, answers.links, caller.events)

    @routes.post("/neuron", summary="What an FFN neuron promotes and demotes", **told(responses.Neuron))
    async def neuron(asked: requests.NeuronRequest, caller: Asking) -> Response:
        return server.reply(caller, asked, answers.neuron, caller.events)

    @routes.post("/head", summary="What a head looks at and brings", **told(responses.Head))
    async def head(asked: requests.HeadRequest, caller: Asking) -> Response:
        return server.reply(caller, asked, answers.head, caller.events)

    @routes.post("/ablate", summary="A target before and after an ablation", **told(responses.Ablation))
    async def ablate(asked: requests.AblateRequest, caller: Asking) -> Response:
        return server.reply(caller, asked, answers.ablate, caller.events)

    @routes.post("/methods", summary="Methods compared on a prompt", **told(responses.Comparison))
    async def compare(asked: requests.MethodsRequest, caller: Asking) -> Response:
        return server.reply(caller, asked, answers.methods, caller.events)

    @routes.post("/export", summary="The answer of attribute as a file", **FILES)
    async def export(asked: requests.ExportRequest, caller: Asking) -> Response:
        return server.reply(caller, asked, answers.export, events=False)

    return routes


def _tell_refusals(app: FastAPI) -> None:
    """Every refusal is JSON with a reason; what is no refusal is the guard's to tell."""
    known: dict[type[Exception], Callable[[Any], Refused]] = {
        RequestValidationError: refusal_of_fields,
        HTTPException: refusal_of_http,
        OptionError: refusal_of,
        Refused: refusal_of,
    }
    for kind, refusal in known.items():
        app.add_exception_handler(kind, _telling(refusal))


def _telling(refusal: Callable[[Any], Refused]) -> Callable[[Request, Any], Awaitable[Response]]:
    async def tell(_: Request, error: Any) -> Response:
        return refusal(error).response()

    return tell
