"""Every command prints what it printed before: the words, the order of its rows, and the numbers.

A change that is meant to be seen writes the files anew: `python tests/golden_cases.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import printed
from golden_cases import CASES, DEMO_CASES, FOLDER, arguments, flat, pieces, save_planted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_planted(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize(
    "name", [*CASES, *(pytest.param(name, marks=pytest.mark.demo) for name in DEMO_CASES)]
)
def test_a_command_prints_what_it_printed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    expected, found = (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), printed(*arguments(name))
    if expected.startswith("{"):
        before, now = flat(json.loads(expected)), flat(json.loads(found))
        assert now.keys() == before.keys()
        numbers = {place for place, value in before.items() if isinstance(value, float)}
        assert {p: v for p, v in now.items() if p not in numbers} == {
            p: v for p, v in before.items() if p not in numbers
        }
        assert [now[p] for p in numbers] == pytest.approx([before[p] for p in numbers], rel=1e-3, abs=1e-4)
    else:
        (before_words, before_numbers), (words, numbers_now) = pieces(expected), pieces(found)
        assert words == before_words
        # The last digit that is printed may be rounded the other way.
        assert numbers_now == pytest.approx(before_numbers, rel=0.02, abs=0.002)
