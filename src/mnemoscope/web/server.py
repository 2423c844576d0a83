"""The opened models behind their queue: who asks, and how a request becomes an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request
from starlette.responses import Response

import mnemoscope
from mnemoscope.api import Model
from mnemoscope.attribution.methods.registry import methods
from mnemoscope.errors import OptionError
from mnemoscope.view.methods import described
from mnemoscope.web import requests
from mnemoscope.web.answers import (
    MOST_PROMPT_TOKENS,
    MOST_TARGET_TOKENS,
    Answer,
    Answers,
    describe,
    stepping,
)
from mnemoscope.web.fair_queue import FairQueue, Limits, Step
from mnemoscope.web.guard import MOST_BODY_BYTES
from mnemoscope.web.latest import Latest
from mnemoscope.web.replies import EVENTS, Awaited, answered

MOST_ANSWERS = 64
MOST_ANSWER_BYTES = 32 * 2**20

AskedOf = TypeVar("AskedOf", bound=requests.Asked)
_CLIENT_NAME = r"^[A-Za-z0-9_-]{1,64}$"


class Caller:
    """Who asks, and how the answer is to come.

    Attributes:
        client: the id that the caller gave itself, or its address.
        lane: in which a newer request takes the place of an older one.
        events: whether every event is to be told, not the result alone.
    """

    def __init__(
        self,
        request: Request,
        x_mnemoscope_client: Annotated[
            str | None,
            Header(
                pattern=_CLIENT_NAME,
                description="A random id of the caller, else its address; clients take turns.",
            ),
        ] = None,
        x_mnemoscope_lane: Annotated[
            str | None,
            Header(
                pattern=_CLIENT_NAME,
                description="A newer request of the same client and lane takes the place of an older one.",
            ),
        ] = None,
    ) -> None:
        address = request.client.host if request.client else ""
        self.client = x_mnemoscope_client or f"address {address}"
        self.lane = x_mnemoscope_lane
        self.events = EVENTS in request.headers.get("accept", "")


Asking = Annotated[Caller, Depends(Caller)]


class Server:
    """The opened models, the queue before them, and the latest answers."""

    def __init__(self, models: Mapping[str, Model], limits: Limits) -> None:
        """Serve models by name; the first answers where none is named."""
        self.models = models
        self.limits = limits
        self.answers = Answers()
        self.queue = FairQueue(limits)
        self._latest: Latest[Answer] = Latest(MOST_ANSWERS, MOST_ANSWER_BYTES)

    def reply(
        self,
        caller: Caller,
        asked: AskedOf,
        answer: Callable[[Model, AskedOf], Answer],
        events: bool,
    ) -> Response:
        """The answer to a request: one of the latest, or that of a new call.

        Raises:
            OptionError: no model of that name is open.
            Refused: too many calls are waiting.
        """
        key = type(asked), asked.model_dump_json()
        known = self._latest.get(key)
        if known is not None:
            self.queue.stop_lane(caller.client, caller.lane)
            return answered(known, events)
        model = self._model(asked.model)

        def work(step: Step) -> Answer:
            with stepping(model, step):
                return answer(model, asked)

        call = self.queue.submit(caller.client, caller.lane, work)
        call.outcome.add_done_callback(partial(self._keep, key))
        return Awaited(self.queue, call, events)

    def _keep(self, key: tuple[type, str], outcome: asyncio.Future[Answer]) -> None:
        if not outcome.cancelled() and outcome.exception() is None:
            answer = outcome.result()
            self._latest.put(key, answer, len(answer.content))

    def _model(self, name: str | None) -> Model:
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise OptionError(
                f"no model of that name is open; give one of {', '.join(map(repr, self.models))}, or start "
                "the server with --model"
            )
        return self.models[name]

    def about(self) -> dict[str, Any]:
        """The models, the methods, and what requests may ask at most."""
        return {
            "version": mnemoscope.__version__,
            "models": [describe(model) | {"name": name} for name, model in self.models.items()],
            "methods": [described(each) for each in methods().values()],
            "limits": {
                "body_bytes": MOST_BODY_BYTES,
                "prompt_characters": requests.MOST_PROMPT_CHARACTERS,
                "prompt_tokens": MOST_PROMPT_TOKENS,
                "target_tokens": MOST_TARGET_TOKENS,
                "top": requests.MOST_TOP,
                "parts": requests.MOST_PARTS,
                "seconds": self.limits.seconds,
            },
        }
