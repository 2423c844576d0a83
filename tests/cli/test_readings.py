"""`mnemoscope neuron --through` and `mnemoscope head` as people and scripts meet them."""

from __future__ import annotations

import json
import re

import pytest

import mnemoscope as ms
from command_line import printed, refused
from mnemoscope.testing import words

PROMPT = words(5, 17, 80, 33)
TOKYO = "The capital of Japan is the city of"


def test_help_ends_with_an_example() -> None:
    text = printed("head", "--help")
    assert text.rstrip().splitlines()[-1].startswith("    mnemoscope head 23.4 ")
    assert "--through LAYER.HEAD" in printed("neuron", "--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["head", "23", "A"], "'23' names no head; write layer.head, such as 23.4"),
        (["neuron", "24.1005", "--through", "23.4.5"], "'23.4.5' names no head"),
        (["neuron", "24"], "'24' names no neuron; write layer.neuron, such as 24.1005"),
    ],
)
def test_names_are_checked_before_the_model_is_opened(arguments: list[str], message: str) -> None:
    assert message in refused(*arguments, "--model", "no/such")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["neuron", "1.0", "--through", "1.0"], "give one of layer 2 or above"),
        (["neuron", "1.0", "--through", "2.4"], "head goes from 0 to 3"),
        (["head", "3.0", PROMPT], "layer goes from 0 to 2"),
        (["head", "2.4", PROMPT], "head goes from 0 to 3"),
        (["head", "2.0", ""], "the prompt is empty"),
    ],
)
def test_mistakes_are_told_in_one_line(llama_folder: str, arguments: list[str], message: str) -> None:
    assert message in refused(*arguments, "--model", llama_folder)


def test_json_is_what_python_gives(llama_folder: str) -> None:
    model = ms.load(llama_folder)
    through = json.loads(printed("neuron", "0.3", "--through", "2.1", "--json", "--model", llama_folder))
    neuron = model.neuron_tokens(0, 3, through=(2, 1)).to_json()
    assert list(through) == list(neuron)
    assert through["through"] == {"layer": 2, "head": 1}
    assert [row["token"] for row in through["promotes"]] == [row["token"] for row in neuron["promotes"]]
    assert through["norm"] == pytest.approx(neuron["norm"])
    head = json.loads(printed("head", "2.1", PROMPT, "--top", "2", "--json", "--model", llama_folder))
    expected = model.head_tokens(PROMPT, 2, 1, top=2).to_json()
    assert list(head) == list(expected)
    for found, row in zip(head["positions"], expected["positions"], strict=True):
        assert list(found) == list(row)
        assert found["value"] == row["value"]
        assert found["attention"] == pytest.approx(row["attention"], rel=1e-4)


@pytest.mark.demo
def test_the_head_that_looks_at_japan_is_drawn() -> None:
    text = printed("head", "23.4", TOKYO)
    assert "Head 23.4  seen from the last position" in text
    assert re.search(r"3  ␣Japan +9\d\.\d % .*␣Japanese .*␣Tokyo", text)
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.demo
def test_a_neuron_is_drawn_through_a_head() -> None:
    text = printed("neuron", "14.813", "--through", "23.4", "--top", "5")
    assert text.startswith("Through head 23.4 ")
    assert "␣Japanese" in text
