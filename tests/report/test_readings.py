"""What `neuron` and `head` draw: within the width, safe, and with what was left out named."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from mnemoscope.report.terminal.vocabulary import render_head, render_neuron
from mnemoscope.results.columns import HEAD_TOKEN_COLUMNS
from mnemoscope.results.parts import Head
from mnemoscope.results.prediction import HeadTokens, NeuronTokens
from mnemoscope.results.texts import CutToken

ODD = ("The", "\n", "日本", "[bold]", "\u202eabc", " שלום", "\ufffd", " " * 30, "e\u0301", "x" * 60)


def drawn(draw: Callable[[Console], None], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        draw(console)
    return capture.get()


def head_reading(tokens: tuple[str, ...] = ODD) -> HeadTokens:
    n_tokens = len(tokens)
    attention = np.linspace(1, 2, n_tokens, dtype="float32")
    lists = [[tokens[(p + i) % n_tokens] for i in range(5)] for p in range(n_tokens)]
    columns = {
        **dict.fromkeys(("input", "key", "value", "demotes"), lists),
        "position": range(n_tokens),
        "token": tokens,
        "attention": attention / attention.sum(),
        "value_norm": 10 * attention,
    }
    return HeadTokens(
        23, 4, "", tokens, tuple(range(n_tokens)), pd.DataFrame(columns)[list(HEAD_TOKEN_COLUMNS)]
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_a_head_keeps_within_the_width(width: int) -> None:
    text = drawn(lambda console: render_head(head_reading(), console), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "Head 23.4" in text
    assert "[bol" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u200b]", text)


def test_a_wide_terminal_has_everything_in_one_table() -> None:
    wide, narrow = (drawn(lambda c: render_head(head_reading(), c), width) for width in (130, 129))
    headings = [re.findall(r"^ +token ", text, re.MULTILINE) for text in (wide, narrow)]
    assert list(map(len, headings)) == [1, 2]
    for column in ("meets (input)", "looks for (key)", "brings (value)"):
        assert column in wide
        assert column in narrow


def test_positions_with_little_attention_are_counted() -> None:
    reading = head_reading(tuple(f" {i}" for i in range(50)))
    text = drawn(lambda console: render_head(reading, console), 160)
    share = reading.table["attention"][:30].sum()
    assert f"30 more positions with {100 * share:.1f} % of the attention" in text
    assert re.findall(r"^(\d+)  ␣", text, re.MULTILINE) == [str(i) for i in range(30, 50)]
    assert "more position" not in drawn(lambda console: render_head(head_reading(), console), 100)


def test_a_neuron_read_through_a_head_says_so() -> None:
    plain = NeuronTokens(14, 813, 1.5, ((" a", 2.5),), (("\n", -2.0),))
    through = NeuronTokens(14, 813, 1.5, ((" a", 2.5),), (("\n", -2.0),), Head(23, 4))
    by_itself = drawn(lambda console: render_neuron(plain, console), 100)
    by_head = drawn(lambda console: render_neuron(through, console), 100)
    assert by_itself.startswith("FFN neuron 14.813")
    title, rest = by_head.split("\n", 1)
    assert title.startswith("Through head 23.4")
    assert rest == by_itself


def test_the_bytes_of_a_character_are_named_alike_in_prompt_and_table() -> None:
    halves = (CutToken("\ufffd", b"\xe6\x97"), CutToken("\ufffd", b"\xa5"))
    reading = replace(head_reading(halves), prompt="日")
    text = drawn(lambda console: render_head(reading, console), 160)
    assert text.count("‹A5 = 日›") == 2
