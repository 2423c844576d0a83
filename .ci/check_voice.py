#!/usr/bin/env python3
"""Check the first words of docstrings in src, and that cited pages, headings and linked files exist.

usage: .ci/check_voice.py [--by-package] [ROOT]
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# CONTRIBUTING.md: a function's docstring begins with a verb, a class's with a noun.
_OPENING = re.compile(r"(What|How|Of|Which|It|Tell|The same)\b")
_OLD_SECTION = re.compile(r"METHOD section")
_CITED = re.compile(r"\bdocs/(\w+\.md)(?:#([\w-]+))?")
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstring_findings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring that opens with a word of `_OPENING`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None
        if text and _OPENING.match(text):
            line = node.body[0].lineno if isinstance(node, _DOCUMENTED) else 1
            yield line, f"docstring opens with {text.splitlines()[0][:60]!r}"


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def citation_findings(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Yield the citations of pages or headings that do not exist, and those of the former METHOD file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if _OLD_SECTION.search(line):
            yield number, "cites METHOD section; cite docs/method.md#anchor"
        targets = [(root / "docs" / page, anchor) for page, anchor in _CITED.findall(line)]
        if path.suffix == ".md":
            targets += [
                (path.parent / page if page else path, anchor) for page, anchor in _LINK.findall(line)
            ]
        for page, anchor in targets:
            if not page.exists() or (anchor and page.suffix == ".md" and anchor not in anchors(page)):
                yield number, f"cites {page.name}{'#' * bool(anchor)}{anchor}, which does not exist"


def findings(root: Path) -> Iterator[tuple[Path, int, str]]:
    """Yield every finding as path below the root, line and message."""
    files = [path for name in ("src", "docs", "tests", "benchmarks") for path in (root / name).rglob("*.*")]
    for path in sorted([*root.glob("*.md"), *files]):
        if path.suffix not in {".py", ".md"}:
            continue
        in_src = path.suffix == ".py" and path.relative_to(root).parts[0] == "src"
        found = [*(docstring_findings(path) if in_src else ()), *citation_findings(path, root)]
        yield from ((path.relative_to(root), line, message) for line, message in sorted(set(found)))


def main(arguments: list[str]) -> int:
    """Print the findings, or their number in each package, and return 1 if there are any."""
    by_package = "--by-package" in arguments
    roots = [Path(argument) for argument in arguments if argument != "--by-package"]
    found = list(findings(roots[0] if roots else Path(__file__).parents[1]))
    if by_package:
        counts = Counter(
            "/".join(path.parts[:3] if path.parts[0] == "src" else path.parts[:1]) for path, *_ in found
        )
        lines = [f"{n:5} {package}" for package, n in sorted(counts.items())]
    else:
        lines = [f"{path}:{line}: {message}" for path, line, message in found]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
