"""`--target` several times and `--against`: one process, all the way through."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from command_line import printed
from support import built, word_tokenizer, words


@pytest.mark.demo
def test_attribute_compares_answers_with_others(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    built("llama").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    arguments = ["--target", " w40", "--target", " w7", "--against", " w9", "--top", "5"]
    text = printed("attribute", words(5, 17, 80, 33), *arguments, "--model", str(folder))
    assert "nats they add to log-odds of any of w40, w7 over w9" in text
    assert "FFN neurons  that raise any of w40, w7 over w9, by direct effect" in text
    assert re.search(r"certified to \de-0\d nats: exact top and bottom 5 of 144 FFN neurons", text)
