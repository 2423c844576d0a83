"""`--target` several times and `--against`: one process, all the way through."""

from __future__ import annotations

import re

from command_line import printed
from mnemoscope.testing import words


def test_attribute_compares_answers_with_others(llama_folder: str) -> None:
    arguments = ["--target", " w40", "--target", " w7", "--against", " w9", "--top", "5", "--full"]
    text = printed("attribute", words(5, 17, 80, 33), *arguments, "--model", llama_folder)
    assert "nats they add to log-odds of any of w40, w7 over w9" in text
    assert "FFN neurons  that raise any of w40, w7 over w9, by direct effect" in text
    assert re.search(r"certified to \de-0\d nats: exact top and bottom 5 of 144 FFN neurons", text)
