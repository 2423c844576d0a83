"""Targets of several tokens on the demo model, whose tokens are pieces of words."""

from __future__ import annotations

import re

import pytest

import mnemoscope as ms
from command_line import printed

pytestmark = pytest.mark.demo

PROMPT = "The largest city of the United States is"


def test_the_command_scores_every_token_of_a_target() -> None:
    text = printed(
        "attribute", PROMPT, "--target", " New York City", "--top", "5", "--no-query", "--no-effects"
    )
    assert "▸ ␣New ␣York ␣City" in text
    for token in ("␣New", "␣York", "␣City"):
        assert re.search(
            rf"^\d  {token} +1 +\d\d\.\d % +−0\.\d{{3}}|^\d  {token} +1 +\d\d\.\d % +−1", text, re.M
        )
    assert re.search(r"certified to \de-0\d nats; --full prints", text)


def test_tokens_that_merge_are_told(demo: ms.Model) -> None:
    assert len(demo.target_tokens(PROMPT, " New York City")) == 3
    with pytest.raises(
        ms.TargetError, match=r"' J', 'ap' becomes .*; begin the target with a space .* or end"
    ):
        demo.attribute_continuation("They speak Jap", "anese fluently")
    with pytest.raises(ms.TargetError, match=r"no leading space.*take ' New York City'"):
        demo.attribute_continuation(PROMPT, "New York City")
    with pytest.raises(ms.TargetError, match="white space that belongs to the target"):
        demo.attribute_continuation(f"{PROMPT} ", "New York City")
