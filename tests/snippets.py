"""The code blocks of the README and the documentation, as a reader would paste them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LANGUAGES = {"python", "bash", "console", "text", "json", "toml"}

_FENCE = re.compile(r"^```(\S*)\s*$")
_PARSED_ONLY = re.compile(r"^<!-- snippet: parsed only, (\S.*) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the file.
        line: number of its first line.
        language: the word behind the fence; empty if there is none.
        text: what is between the fences.
        reason: why it is only parsed; empty if it is to run.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A line of a shell, after its variables were put in.

    Attributes:
        words: the command and its arguments.
        output: the file that it writes to with `>`; None if it writes to the terminal.
    """

    words: tuple[str, ...]
    output: str | None


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found: list[Block] = []
    begun: tuple[int, str] | None = None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if begun is None and fence:
            begun = (number, fence[1])
        elif begun is not None and fence:
            first, language = begun
            marked = _PARSED_ONLY.match(lines[first - 2])
            text = "\n".join(lines[first : number - 1]) + "\n"
            found.append(Block(page, first + 1, language, text, marked[1] if marked else ""))
            begun = None
    assert begun is None, f"{page}: a block that begins in line {begun} does not end"
    return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a `bash` block, or those behind the `$` of a `console` block."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    variables: dict[str, str] = {}
    for line in lines:
        words = shlex.split(line, comments=True)
        if len(words) == 1 and (given := re.fullmatch(r"([A-Z]+)=(.*)", words[0])):
            variables[given[1]] = given[2]
            continue
        words = [re.sub(r"\$([A-Z]+)", lambda name: variables[name[1]], word) for word in words]
        output = None
        if ">" in words:
            *words, _, output = words
        if words:
            yield Command(tuple(words), output)
