"""The page as a browser shows it, from a file and without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mnemoscope.results.attribution import Attribution

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKENS = ("The", "</script><script>alert(1)</script>", " of")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


def shown(path: Path) -> tuple[str, str]:
    """What the page has become after its script ran, and what the browser said of it."""
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--dump-dom",
            f"file://{path}",
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(said)


def test_script_makes_every_chart_answer_under_the_strict_policy(
    make_result: Callable[..., Attribution], tmp_path: Path
) -> None:
    page, said = shown(make_result(tokens=TOKENS).save(tmp_path / "page.html"))
    assert said == ""
    for name in ("layers", "path", "heads", "neurons", "positions"):
        figure = re.search(rf'<figure id="chart-{name}">.*?</figure>', page, re.DOTALL)
        assert figure is not None, name
        assert 'class="still"' not in figure[0], name
        live = re.search(r'<div class="live vega-embed"[^>]*>', figure[0])
        assert live is not None, name
        assert 'role="graphics-document"' in live[0]
        assert " hidden" not in live[0]


def test_pictures_stay_where_the_script_may_not_run(
    make_result: Callable[..., Attribution], tmp_path: Path
) -> None:
    path = make_result(tokens=TOKENS).save(tmp_path / "page.html")
    path.write_text(re.sub(r"script-src '[^']*'", "script-src 'none'", path.read_text("utf-8")), "utf-8")
    page, said = shown(path)
    assert "Executing inline script violates" in said
    assert page.count('<div class="still"><svg') == 5
