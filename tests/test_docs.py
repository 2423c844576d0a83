"""Links between pages, and from code to pages, lead to a file and a heading that exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_citation_leads_somewhere() -> None:
    findings = runpy.run_path(str(ROOT / ".ci" / "check_voice.py"))["findings"](ROOT)
    assert not [finding for finding in findings if "docstring opens" not in finding[2]]


def test_the_map_names_files_that_exist() -> None:
    rows = (
        (ROOT / "CONTRIBUTING.md")
        .read_text(encoding="utf-8")
        .partition("| where is | file |")[2]
        .splitlines()
    )
    named = [
        cell for row in rows[2:] if row.startswith("|") for cell in re.findall(r"`([\w/]+(?:\.\w+|/))`", row)
    ]
    assert len(named) > 10
    folders = (ROOT, ROOT / "src" / "mnemoscope")
    assert not [path for path in named if not any((folder / path).exists() for folder in folders)]
