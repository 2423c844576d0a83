"""House rules of CONTRIBUTING.md that no linter checks."""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "mnemoscope"
LONGEST = 400


def test_files_are_short() -> None:
    lengths = {
        path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8").count("\n")
        for path in SOURCE.rglob("*.py")
    }
    assert lengths
    assert {name for name, length in lengths.items() if length > LONGEST} == set()
