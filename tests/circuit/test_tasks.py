"""Pairs of files in several formats, and of facts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mnemoscope as ms
from circuit_tasks import agreement_file
from mnemoscope.circuit.tasks import read_pairs

PAIR = ms.Pair("A b", "A c", " d", " e")


@pytest.mark.parametrize(
    "row",
    [
        {"clean": "A b", "counterfactual": "A c", "answer": " d", "counterfactual_answer": " e"},
        {
            "clean_prefix": "A b",
            "patch_prefix": "A c",
            "clean_answer": " d",
            "patch_answer": " e",
            "case": "x",
        },
        {
            "prompt": "A b",
            "choices": ["d", "e"],
            "answerKey": 0,
            "metadata": {"indirect_object": "d", "subject": "e"},
            "s2_io_flip_counterfactual": {"prompt": "A c", "choices": ["e", "d"], "answerKey": 0},
        },
    ],
    ids=["own", "Marks et al.", "IOI of MIB"],
)
def test_each_format_gives_the_same_pair(row: dict, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"\n{json.dumps(row)}\r\n\n", encoding="utf-8-sig", newline="")
    assert read_pairs(path) == read_pairs([row]) == read_pairs([PAIR]) == (PAIR,)


def test_a_prompt_may_hold_any_separator(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {
        "clean": "A\u2028b",
        "counterfactual": "A\x85c",
        "answer": "d",
        "counterfactual_answer": "e",
    }
    path.write_text(f"{json.dumps(row, ensure_ascii=False)}\n", encoding="utf-8")
    assert read_pairs(path) == (ms.Pair("A\u2028b", "A\x85c", "d", "e"),)


def test_what_is_no_task_is_refused() -> None:
    for task in (PAIR, 3, {"clean": "A"}):
        with pytest.raises(ms.OptionError, match="give a list of pairs"):
            read_pairs(task)  # type: ignore[arg-type]
    with pytest.raises(ms.FactsError, match="pair 1 is no JSON object"):
        read_pairs([3])  # type: ignore[list-item]


def test_the_agreement_files_are_read() -> None:
    pairs = read_pairs(agreement_file("simple_train.jsonl"))
    assert len(pairs) == 480
    assert pairs[0] == ms.Pair("The friends", "The friend", " have", " has")
