"""What the OpenAPI document says beside the models of requests and responses."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from mnemoscope.web import responses
from mnemoscope.web.answers import MEDIA_TYPES
from mnemoscope.web.replies import EVENTS

_RETRY = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
_TO_RETRY = (429, 503)


def told(response: Any) -> dict[str, Any]:
    """How a route tells its answer: as JSON, or as a line for every event."""
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
DESCRIPTION = f"""Which neurons of a language model remember a fact, over HTTP.

Answers are the objects that the command line prints with `--json`. One call is computed at a time; the others
wait, and clients take turns. With `Accept: {EVENTS}` an answer is a line of JSON for every event: `queued`,
`progress`, then `result` or `error`. Errors are `{{"error", "remedy"}}`.
"""
