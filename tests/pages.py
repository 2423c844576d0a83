"""How the tests open the web page, watch it, and take files from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from served import PROMPT

WIDE, TABLET, PHONE = (1440, 900), (1024, 768), (390, 844)
GRAVE = ("serious", "critical")  # violations, as axe-core calls them
SECONDS = 30  # that anything may take to appear, on a machine that is busy with other tests


@dataclass
class Visitor:
    """Opens pages and watches them.

    Attributes:
        browser: to open them with.
        refusals: parts of the messages that the browser may write because something is refused.
        wrong: errors and requests elsewhere, so far.
        contexts: of the pages that were opened.
    """

    browser: Browser
    refusals: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(
        self, url: str, size: tuple[int, int] = WIDE, scheme: str = "light", *, offline: bool = False
    ) -> Page:
        """A page in a context of its own, as it is at once."""
        context = self.browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
            offline=offline,
        )
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", lambda request: self._see(url.partition("#")[0], request.url))
        page.goto(url)
        return page

    def __call__(
        self, address: str, size: tuple[int, int] = WIDE, scheme: str = "light", **state: str
    ) -> Page:
        """A page of the tiny model at a state, when everything is there."""
        page = self.open(f"{address}#{urlencode({'prompt': PROMPT, **state})}", size, scheme)
        complete(page)
        return page

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(part in text for part in self.refusals):
            self.wrong.append(f"{kind}: {text}")

    def _see(self, address: str, url: str) -> None:
        if not url.startswith((address, "blob:", "data:")):
            self.wrong.append(f"request: {url}")


def complete(page: Page) -> None:
    """Wait until the whole answer is drawn and nothing uses the model any more."""
    expect(page.locator("body:not(.waiting, .measuring) #headline[data-complete=true]")).to_be_visible()
    expect(page.locator(".working")).to_have_count(0)


def head_cell(page: Page, layer: int, head: int) -> Locator:
    """A head in the map."""
    return page.locator(f"#view [role=gridcell][data-part='head.{layer}.{head}']")


def choose_tab(page: Page, name: str) -> None:
    """Choose a view, and wait until it is drawn."""
    page.get_by_role("tab", name=name, exact=True).click()
    expect(page.locator(f"#view[data-tab={name.lower()}]")).to_be_visible()
    expect(page.locator(".working")).to_have_count(0)


def show_rail(page: Page) -> None:
    """Unfold the rail where it is folded."""
    toggle = page.locator("#rail-toggle[aria-expanded=false]")
    if toggle.is_visible():
        toggle.click()


def close_inspector(page: Page) -> None:
    """Close the drawer or sheet where there is one."""
    close = page.get_by_role("button", name="Close the inspector")
    if close.is_visible():
        close.click()


def saved(page: Page, button: Locator, folder: Path) -> str:
    """What a button saves, as text."""
    with page.expect_download() as download:
        button.click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path.read_bytes().decode("utf-8")


def violations(page: Page, **options: Any) -> list[str]:
    """What axe-core calls grave, and where."""
    # Of what passes nothing is told: thousands of elements would be.
    found = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]
