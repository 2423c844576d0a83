"""The frame of all pages: templates, the policy of a page, and files inside it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mnemoscope.report.figures import hatches, level_rules
from mnemoscope.report.findings import Sentence, Token, plain
from mnemoscope.report.text import percent, plain_number, signed
from mnemoscope.report.tokens import visible
from mnemoscope.results.targets import Provenance


@cache
def templates() -> Environment:
    """Return the templates of all pages; only `Markup` values are markup, all others are escaped."""
    environment = Environment(
        loader=PackageLoader("mnemoscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        plain_number=plain_number,
        signed=signed,
        visible=visible,
        sentence=sentence_markup,
        code=code_markup,
    )
    return environment


def sentence_markup(sentence: Sentence) -> Markup:
    """Return a sentence with its tokens as elements."""
    return Markup("").join(
        Markup('<bdi class="token">{}</bdi>').format(part.text) if isinstance(part, Token) else part
        for part in sentence
    )


def code_markup(text: str) -> Markup:
    """Return a text with what stands between backquotes as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def page(template: str, script: str = "", rules: str = "", **values: Any) -> str:
    """Render a page whose policy allows its own style and script only, by their SHA-256.

    Args:
        template: name of the template.
        script: name of a file of `templates` with the page's script; empty for none.
        rules: style rules beside those of all pages.
        values: of the template.
    """
    style, code = Markup(_file("report.css") + rules), Markup(_file(script)) if script else Markup()
    hashes = {"style_hash": _digest(style), "script_hash": _digest(code)}
    return templates().get_template(template).render(style=style, script=code, **hashes, **values)


def report_page(
    template: str, title: Sentence, origin: Provenance, content: bytes, most: int, **values: Any
) -> str:
    """Render a page with the script of reports, and with its data unless they have more than `most` bytes."""
    return page(
        template,
        "report.js",
        level_rules(),
        hatches=hatches(),
        title=title,
        title_text=plain(title),
        origin=origin,
        today=date.today().isoformat(),
        data=data_address("application/gzip", gzip.compress(content, mtime=0), most),
        rows=origin_rows(vars(origin)),
        **values,
    )


def _file(name: str) -> str:
    return (resources.files("mnemoscope.report") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def data_address(kind: str, content: bytes, most: float = math.inf) -> str:
    """Return a file of a media type as a `data:` address, empty if the file has more than `most` bytes."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if len(content) <= most else ""


def origin_rows(about: Mapping[str, Any], **more: str) -> dict[str, str]:
    """Return the model, versions and options of a provenance or manifest by heading."""
    return {
        "model": about["model"],
        "revision": str(about["revision"]),
        "architecture": about["architecture"],
        "weights": about["dtype"],
        **more,
        **{f"version of {name}": version for name, version in about["versions"].items()},
        **{f"option {name}": str(value) for name, value in about["options"].items()},
    }
