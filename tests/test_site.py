"""The documentation builds as a site without a warning, has a page for every name, and stands alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import mnemoscope
from command_line import run

pytest.importorskip("mkdocs", reason="mkdocs is not installed; run make test-site")
pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
# Links that a reader may follow; all other addresses would be fetched.
FETCHED = {("link", "href"), ("script", "src"), ("img", "src"), ("source", "srcset"), ("iframe", "src")}


class Links(HTMLParser):
    """The anchors of a page, the links that it shows, and the files that a browser fetches for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"id", "name"} and value:
                self.anchors.add(value)
            elif value and (tag, name) in FETCHED and ("rel", "canonical") not in attrs:
                self.fetched.add(value)
            elif value and (tag, name) == ("a", "href"):
                self.links.add(value)


@cache
def links(page: Path) -> Links:
    return Links(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; a warning of the build is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return folder


def pages(site: Path) -> list[Path]:
    """The pages of the site; the report of a study is a file of its own."""
    return [page for page in site.rglob("*.html") if page.name not in {"404.html", "demo_study.html"}]


def test_every_public_name_has_a_page(site: Path) -> None:
    for name, module in mnemoscope._PUBLIC.items():
        anchors = links(site / "api" / f"{name}.html").anchors
        assert any(anchor.endswith(f".{name}") for anchor in anchors), (
            f"{module}.{name} has no docstring there"
        )


def test_every_command_has_a_section(site: Path) -> None:
    listed = re.findall(r"^  ([a-z]+) ", run("--help").stdout.partition("Commands:")[2], re.M)
    assert len(listed) > 10
    assert {f"mnemoscope-{command}" for command in listed} <= links(site / "cli.html").anchors


def test_every_link_leads_to_a_file_and_an_anchor(site: Path) -> None:
    broken = []
    for page in pages(site):
        for link in links(page).links | links(page).fetched:
            path, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (
                anchor and target.suffix == ".html" and anchor not in links(target).anchors | {"__skip"}
            ):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    assert len(pages(site)) > 90
    for page in pages(site):
        away = [url for url in links(page).fetched if re.match(r"(?!data:)[a-z]+:|//", url)]
        assert away == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.parametrize(
    ("words", "page"),
    [("log-probability increase", "scores.html"), ("BOS", "faq.html"), ("GGUF", "large_models.html")],
)
def test_the_search_finds(site: Path, words: str, page: str) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"] for entry in index["docs"] if words in f"{entry['title']} {entry['text']}"}
    assert any(location.startswith(page) for location in found)


def test_the_list_for_programs_names_pages_that_exist(site: Path) -> None:
    named = re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text(encoding="utf-8"))
    assert len(named) > 80
    assert [name for name in named if not (site / name).is_file()] == []


def test_the_notebooks_show_their_outputs(site: Path) -> None:
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        page = (site / "tutorials" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert "<table" in page, notebook.stem
    assert list((site / "tutorials").glob("first_look_*.svg"))
