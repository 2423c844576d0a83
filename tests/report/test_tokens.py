"""Nothing in a token is hidden from the reader or obeyed by the screen."""

from __future__ import annotations

import io
import json
import pickle
import re
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st
from rich.console import Console

import mnemoscope as ms
from mnemoscope._io import json_text
from mnemoscope.report.html import render_html
from mnemoscope.report.terminal.attribution import render_attribution
from mnemoscope.report.terminal.vocabulary import render_prediction
from mnemoscope.report.tokens import in_ascii, middle_left_out, token_labels, visible
from mnemoscope.results.texts import CutToken


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Tokyo", "Tokyo"),
        (" Tokyo", "␣Tokyo"),
        ("a b ", "a b␣"),
        ("   ", "␣␣␣"),
        ("", "∅"),
        ("\n\n\t", "⏎⏎⇥"),
        (" \r\n", "␣\\u000d⏎"),
        ("\x1b[31m", "\\u001b[31m"),
        ("\u202eabc", "\\u202eabc"),
        ("\ufffd", "‹?›"),
        ("a\u00a0b\u200b", "a\\u00a0b\\u200b"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\u0301x", "◌\u0301x"),
        ("e\u0301", "e\u0301"),
        ("日本 🙂 مرحبا", "日本 🙂 مرحبا"),
        ("[bold]", "[bold]"),
    ],
)
def test_shows_every_character(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_leaves_nothing_that_has_no_shape(text: str) -> None:
    shown = visible(text)
    assert shown
    assert shown == shown.strip()
    assert all(c == " " or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zs"} for c in shown)


@pytest.mark.parametrize(
    ("tokens", "text", "labels"),
    [
        (("\ufffd", "\ufffd"), "日", ("‹E6 97›", "‹A5 = 日›")),
        ((" \ufffd", "\ufffd", "a"), " שa", ("␣‹D7›", "‹A9 = ש›", "a")),
        (("\ufffd", "\ufffd\ufffd", "\ufffd"), "🙂é", ("‹F0 9F 99›", "‹82 = 🙂›‹C3›", "‹A9 = é›")),
        (("<s>", "\ufffd", "\ufffd"), "日", ("<s>", "‹E6 97›", "‹A5 = 日›")),
        (("\ufffd", " x"), "other text", ("‹?›", "␣x")),
        ((" Tokyo", "\n"), " Tokyo\n", ("␣Tokyo", "⏎")),
    ],
)
def test_characters_that_are_cut_show_their_bytes(
    tokens: tuple[str, ...], text: str, labels: tuple[str, ...]
) -> None:
    assert token_labels(tokens, text) == labels


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.data())
def test_labels_have_every_byte_in_order(text: str, draw: st.DataObject) -> None:
    content = text.encode()
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(content)), max_size=6)) | {0, len(content)})
    pieces = [content[a:b].decode("utf-8", "replace") for a, b in pairwise(cuts)]
    labels = token_labels(pieces, text)
    assert all("\ufffd" not in label for label in labels) or "\ufffd" in text
    assert [visible(label) for label in labels] == list(labels)


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(0, 300))
def test_leaves_out_the_middle(widths: list[int], room: int) -> None:
    head, tail = middle_left_out(widths, room)
    assert head + tail <= len(widths)
    if sum(widths) <= room:
        assert head + tail == len(widths)
    else:
        assert tail >= 1
        assert tail - head in (0, 1)
        assert tail == 1 or sum(widths[:head]) + sum(widths[-tail:]) <= room


def test_signs_have_ascii_replacements() -> None:
    assert in_ascii("␣Tokyo ⏎ −0.158 █▌│▒ ■·□ … 0–8 ━╸╍ → ±").isascii()


def test_a_cut_token_shows_its_bytes_and_keeps_its_text() -> None:
    token = CutToken(" a\ufffd", b" a\xe6\x97")
    assert (visible(token), token, json.dumps([token])) == ("␣a‹E6 97›", " a\ufffd", '[" a\\ufffd"]')
    assert visible(pickle.loads(pickle.dumps(token))) == visible(token)
    assert visible("\ufffd") == "‹?›"


def drawn(render: Callable[..., None], result: Any) -> str:
    file = io.StringIO()
    render(result, Console(file=file, width=200))
    return file.getvalue()


@pytest.mark.demo
def test_promoted_and_predicted_tokens_show_their_bytes(demo: ms.Model) -> None:
    found = demo.attribute("日本の首都は", top=10, effects=False, query=False)
    lists = [*found.ffn_neurons["promotes"], *found.suppressing_ffn_neurons["promotes"]]
    cut = [token for tokens in lists for token in tokens if "\ufffd" in token]
    assert cut
    prediction = drawn(render_prediction, demo.predict("日本の首都は", 20))
    for text in (render_html(found), drawn(render_attribution, found), prediction):
        assert "‹?›" not in text
        assert re.search("‹[0-9A-F ]+›", text)
    assert "\ufffd" in json_text(found.to_json())
    assert "‹" not in json_text([list(tokens) for tokens in lists])
