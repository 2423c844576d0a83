"""`--target` several times and `--against`: one process, all the way through."""

from __future__ import annotations

import json
import re

import pytest

from command_line import printed
from mnemoscope.testing import words


def test_attribute_compares_answers_with_others(llama_folder: str) -> None:
    arguments = ["--target", " w40", "--target", " w7", "--against", " w9", "--top", "5", "--full"]
    text = printed("attribute", words(5, 17, 80, 33), *arguments, "--model", llama_folder)
    assert "nats they add to log-odds of any of w40, w7 over w9" in text
    assert "FFN neurons  that raise any of w40, w7 over w9, by direct effect" in text
    assert re.search(r"certified to \de-0\d nats: exact top and bottom 5 of 144 FFN neurons", text)


def test_whole_answers_are_compared(llama_folder: str) -> None:
    question = [words(5, 17, 80, 33), "--target", " w40 w7", "--against", " w9 w12", "--model", llama_folder]
    text = printed("attribute", *question, "--top", "5", "--full")
    assert "Tokens of the contrast" in text
    assert re.search(r"log-odds \S+   log p \S+   log p of the contrast ", text)
    assert "nats they add to log-odds of all tokens of w40 w7 over w9 w12" in text
    for name in ("0 w40 over w9", "1 w7", "2 − w12"):
        assert name in text
    found = json.loads(printed("attribute", *question, "--json"))
    assert found["against"]["text"] == " w9 w12"
    ablated = json.loads(printed("ablate", *question, "--top", "2", "--seeds", "1", "--json"))
    assert ablated["before"]["log_odds"] == pytest.approx(found["value"], abs=1e-5)
    names = [(row["layer"], row["neuron"]) for row in found["ffn_neurons"][:2]]
    assert [(part["layer"], part["neuron"]) for part in ablated["parts"]] == names


def test_a_contrast_by_its_id(llama_folder: str) -> None:
    question = [words(5, 17, 80, 33), "--target", " w40 w7", "--head", "1.0", "--model", llama_folder]
    by_text, by_id = (
        json.loads(printed("ablate", *question, *against, "--seeds", "1", "--json"))
        for against in (("--against", " w9"), ("--against-id", "9"))
    )
    assert by_text == by_id
