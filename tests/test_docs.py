"""Links between pages, and from code to pages, lead to a file and a heading that exist."""

from __future__ import annotations

import ast
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


def test_troubleshooting_quotes_messages_that_exist() -> None:
    """Each quoted symptom, cut at `...`, is a part of some text of the source."""
    texts = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    symptoms = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    quoted = [
        piece.strip(" ,()'")
        for symptom in symptoms
        for text in re.findall(r"`([^`]+)`", symptom)
        for piece in re.split(r"\.\.\.|'Tokyo'|\b3\b", text)
    ]
    assert len(symptoms) > 50
    assert [piece for piece in quoted if not any(piece in text for text in texts)] == []
