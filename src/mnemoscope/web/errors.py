"""Errors of the API: JSON with a reason and, where there is one, a remedy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mnemoscope._io import json_text
from mnemoscope.errors import MnemoscopeError

if TYPE_CHECKING:
    from fastapi.exceptions import RequestValidationError
    from pydantic import ValidationError

DOCUMENT = "/api/openapi.json"

_log = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that is refused or failed.

    Attributes:
        status: HTTP status.
        error: reason.
        remedy: remedy; None if the reason names it.
        headers: additional headers of the response.
    """

    def __init__(
        self, status: int, error: str, remedy: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.remedy = remedy
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Return `error` and, if there is one, `remedy`."""
        said = {"error": self.error, "remedy": self.remedy}
        return {name: text for name, text in said.items() if text is not None}

    def response(self) -> Response:
        """Return the JSON response."""
        content = json_text(self.to_json()).encode()
        return Response(content, self.status, self.headers, media_type="application/json")


def come_again(status: int, error: str, remedy: str, seconds: int) -> ApiError:
    """Make a refusal of a request that may succeed after some seconds."""
    return ApiError(status, error, remedy, {"Retry-After": str(seconds)})


def refusal_of(error: BaseException) -> ApiError:
    """Convert an error of a call: errors of the caller keep their message, others go to the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MnemoscopeError):
        return ApiError(400, str(error))
    _log.error("a request failed", exc_info=error)
    return ApiError(
        500,
        f"the server failed ({type(error).__name__}); this is a fault of Mnemoscope",
        "look at what the server wrote to its terminal, and report it",
    )


def refusal_of_http(error: HTTPException) -> ApiError:
    """Convert an HTTP error: an unknown path, a method it does not have, or a body that is not JSON."""
    told = _OF_HTTP.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, told, f"see {DOCUMENT} for what there is", error.headers)


def refusal_of_fields(
    error: RequestValidationError | ValidationError,
    remedy: str = f"see {DOCUMENT} for what each field may be",
) -> ApiError:
    """Convert errors of fields: missing, unknown, of the wrong type or out of bounds; no values."""
    if all(each["type"] == "empty_prompt" for each in error.errors()):
        return ApiError(422, "type a prompt first")
    found = [f"{_place(each['loc'])}: {each['msg']}" for each in error.errors()[:_MOST_FIELDS]]
    more = len(error.errors()) - len(found)
    told = "; ".join(found) + (f"; and {more} more" if more > 0 else "")
    return ApiError(422, told, remedy)


_MOST_FIELDS = 5
_OF_HTTP = {
    400: "the body is not JSON",
    404: "there is nothing at this address",
    405: "this address does not take this HTTP method",
}


def _place(location: Sequence[str | int]) -> str:
    """Return a field's path such as `parts.0.layer`, each name cut to 40 characters of ASCII."""
    inside = [str(each) for each in location if each not in ("body", "header")]
    return ".".join(name[:40].encode("ascii", "backslashreplace").decode() for name in inside) or "the body"
