"""Links between pages, and from code to pages, lead to a heading that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
CODE = [path for name in ("src", "tests", "benchmarks", "docs") for path in (ROOT / name).rglob("*.py")]


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub and mkdocs give to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(page: Path, anchor: str) -> bool:
    return not page.is_file() or (bool(anchor) and anchor not in anchors(page))


def test_links_between_pages_lead_somewhere() -> None:
    wrong = []
    for page in PAGES:
        links = re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8"))
        targets = [((page.parent / path).resolve() if path else page, anchor) for path, anchor in links]
        wrong += [
            f"{page.name}: {path.name}#{anchor}"
            for path, anchor in targets
            if path.suffix == ".md" and leads_nowhere(path, anchor)
        ]
    assert not wrong


def test_pages_that_code_cites_have_the_section() -> None:
    cited = [
        (source, page, anchor)
        for source in CODE
        for page, anchor in re.findall(
            r"docs/([a-z_]+\.md)(?:#([\w-]+))?", source.read_text(encoding="utf-8")
        )
    ]
    assert len(cited) > 40
    assert not [
        f"{s.name}: {page}#{anchor}"
        for s, page, anchor in cited
        if leads_nowhere(ROOT / "docs" / page, anchor)
    ]


def test_code_cites_no_page_that_the_repository_lacks() -> None:
    assert not [
        path.name for path in CODE if re.search(r"METHOD" + r" section", path.read_text(encoding="utf-8"))
    ]
