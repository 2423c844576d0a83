"""`mnemoscope models check`: every sum of the user's own model, whether it passes or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import printed, refused, run
from mnemoscope.model.families.registry import Family
from support import built, save_tiny


def test_a_folder_is_validated(tmp_path: Path) -> None:
    folder = save_tiny(built("granite"), tmp_path / "own")
    found = json.loads(printed("models", "check", str(folder), "--json"))
    assert found["passed"]
    assert found["architecture"] == "GraniteForCausalLM"
    assert len(found["checks"]) == 6
    assert all(check["passed"] and check["error"] <= check["tolerance"] for check in found["checks"])
    shown = printed("models", "check", str(folder))
    assert shown.count("adds up") == 6
    assert "3, sequential" in shown


def test_a_model_that_does_not_add_up_is_shown_and_refused(tmp_path: Path) -> None:
    """ModernBERT's head has a layer of its own between the final norm and the vocabulary."""
    settings = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
    }
    folder = save_tiny(Family("ModernBERT", "modernbert-decoder", "", settings).build(), tmp_path / "own")
    done = run("models", "check", str(folder))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout.count("does not add up") == 1
    assert "readout (off by" in done.stderr


def test_options_before_check_are_those_of_check(tmp_path: Path) -> None:
    folder = save_tiny(built("granite"), tmp_path / "own")
    after = printed("models", "check", str(folder), "--json")
    assert printed("models", "--json", "check", str(folder)) == after
    assert "--threads is 100000" in refused("models", "--threads", "100000", "check", str(folder))


def test_a_model_that_is_not_there_is_told() -> None:
    assert "no file or folder" in refused("models", "check", "./nothing-here")


@pytest.mark.parametrize("command", [["models", "check"]])
def test_help_ends_with_an_example(command: list[str]) -> None:
    assert printed(*command, "--help").rstrip().splitlines()[-1].startswith("    mnemoscope models check")
