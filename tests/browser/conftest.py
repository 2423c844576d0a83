"""Fixtures: a real browser, real servers, and pages in which nothing may go wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

import mnemoscope as ms
from pages import SECONDS, Visitor
from served import Gate, live, watched


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine; for one module, as its event loop would disturb the tests of others."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        expect.set_options(timeout=SECONDS * 1000)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def address(llama: ms.Model) -> Iterator[str]:
    """Of a server with a tiny model."""
    with live(llama) as address:
        yield address


@pytest.fixture(scope="session")
def demo_address(demo: ms.Model) -> Iterator[str]:
    """Of a server with the demo model."""
    with live(demo) as address:
        yield address


@pytest.fixture
def gate(llama: ms.Model) -> Iterator[Gate]:
    """An open gate before every block of the tiny model."""
    with watched(llama) as gate:
        yield gate


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visitor]:
    """Opens watched pages; at the end nothing may have gone wrong in them."""
    visitor = Visitor(browser)
    yield visitor
    for context in visitor.contexts:
        context.close()
    assert visitor.wrong == []
