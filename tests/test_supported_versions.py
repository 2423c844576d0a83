"""The source needs nothing newer than Python 3.10, and nothing that Python 3.12 or 3.13 removed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Modules of the standard library that 3.12 and 3.13 removed (PEP 594, PEP 632 and others).
REMOVED = set(
    re.findall(
        r"\w+",
        """asynchat asyncore distutils imp smtpd
        aifc audioop cgi cgitb chunk crypt imghdr lib2to3 mailcap msilib nis nntplib ossaudiodev pipes sndhdr
        spwd sunau telnetlib uu xdrlib""",
    )
)


def test_the_source_is_python_3_10_and_imports_nothing_removed() -> None:
    files = [
        path for folder in ("src", "benchmarks", "tests", "docs") for path in (ROOT / folder).rglob("*.py")
    ]
    imported: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    assert "torch" in imported
    assert imported & REMOVED == set()


def test_the_classifiers_are_the_versions_that_the_workflow_tests() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    classified = re.findall(r"Python :: (3\.\d+)", project)
    workflow = ROOT / ".github" / "workflows" / "tests.yml"
    if workflow.exists():  # an sdist has no workflows
        tested = re.findall(
            r'"(3\.\d+)"', re.findall(r"python: \[(.*)\]", workflow.read_text(encoding="utf-8"))[0]
        )
        assert classified == tested
    assert f'requires-python = ">={classified[0]}"' in project
