"""What all pages are made with: templates that escape every text, and digests for their policies."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from mnemoscope.view.numbers import percent, plain_number, signed
from mnemoscope.view.tokens import visible

_FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "plain_number": plain_number,
    "signed": signed,
    "visible": visible,
}


@cache
def templates() -> Environment:
    """The templates of all pages; nothing they are given becomes markup unless it is `Markup`."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("mnemoscope.view"), PackageLoader("mnemoscope.view.study")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


def digest(text: str) -> str:
    """By which the policy of a page knows its own style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
