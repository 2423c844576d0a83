"""Photograph the web page and a report on the demo model in Chromium: `python docs/make_screenshots.py`."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, expect, sync_playwright

import mnemoscope as ms

FOLDER = Path(__file__).parent / "pictures"
PROMPT, TARGET = "The capital of Japan is the city of", " Tokyo"
WIDE, PHONE = (1440, 900), (390, 844)
MINUTE = 60_000  # milliseconds
ASKED = [
    ("prompt", PROMPT),
    ("target", TARGET),
    ("open", "head.23.4"),
    ("bench", "head.23.4"),
    ("bench", "ffn.24.1005"),
    ("pane", "bench"),
]


def main() -> None:
    """Write `page.png`, `page_dark.png`, `page_phone.png` and `report.png`."""
    FOLDER.mkdir(exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with serving() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        url = f"{address}#{urlencode(ASKED)}"
        for name, size, scheme in (
            ("page", WIDE, "light"),
            ("page_dark", WIDE, "dark"),
            ("page_phone", PHONE, "light"),
        ):
            page = opened(browser, url, size, scheme)
            expect(page.locator("body:not(.waiting) #headline[data-complete=true]")).to_be_visible(
                timeout=MINUTE
            )
            expect(page.locator("#stages li.done")).to_have_count(3, timeout=MINUTE)
            expect(page.locator(".working")).to_have_count(0, timeout=MINUTE)
            page.screenshot(path=FOLDER / f"{name}.png")
        with tempfile.TemporaryDirectory() as folder:
            path = ms.load("demo").attribute(PROMPT, TARGET).save(Path(folder) / "tokyo.html")
            opened(browser, path.as_uri(), WIDE, "light").screenshot(path=FOLDER / "report.png")
        browser.close()


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server of its own."""
    command = [sys.executable, "-m", "mnemoscope", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if "Mnemoscope is at" in line)
        try:
            yield re.findall(r"http://[^/]+/", told)[0]
        finally:
            process.terminate()


def opened(browser: Browser, url: str, size: tuple[int, int], scheme: str) -> Page:
    """A page of a size, in light or dark."""
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page.goto(url)
    return page


if __name__ == "__main__":
    main()
