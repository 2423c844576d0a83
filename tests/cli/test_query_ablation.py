"""`mnemoscope ablate --query`: what it refuses, and what it prints."""

from __future__ import annotations

import json
import re

import pytest

from cli.test_cli import TOKYO, printed, refused
from mnemoscope.testing import words


@pytest.mark.parametrize(
    "option",
    [
        ["--top", "10"],
        ["--ffn", "24.1005"],
        ["--attention", "23.4.51"],
        ["--head", "23.4"],
        ["--layer", "23.ffn"],
        ["--factor", "0.5"],
        ["--mean-of", "A"],
        ["--resample-from", "A"],
        ["--last"],
        ["--facts", "facts.jsonl", "--relation", "capital"],
    ],
    ids=lambda option: option[0],
)
def test_query_neurons_exclude_what_names_or_changes_other_parts(option: list[str]) -> None:
    message = refused("ablate", "A", "--query", "10", *option)
    assert f"--query and {option[0]} exclude each other" in message


@pytest.mark.demo
def test_ablate_zeroes_the_query_neurons() -> None:
    found = json.loads(printed("ablate", *TOKYO[1:], "--query", "1000", "--seeds", "1", "--json"))
    assert len(found["ablation"]["parts"]) == 1000
    assert {part["layer"] for part in found["ablation"]["parts"]} <= set(range(15))
    assert found["ablation"]["after"]["probability"] < 0.01 * found["ablation"]["before"]["probability"]
    assert len(found["coefficients"]) == 60
    (attention,) = (row for row in found["agreement"] if row["kind"] == "attention")
    assert attention["n"] == 30
    assert attention["measured"] < 0


def test_an_ablation_of_query_neurons_is_drawn(llama_folder: str) -> None:
    command = ["ablate", words(5, 17, 80, 33), "--target", " w40", "--query", "12", "--seeds", "1"]
    drawn = printed(*command, "--model", llama_folder)
    assert "12 FFN neurons  factor 0 at all positions" in drawn
    assert re.search(r"\n30 attention +[+−]", drawn)
