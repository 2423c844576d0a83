"""The demo model is a chat model: its template, and what the commands show of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mnemoscope as ms
from command_line import printed

pytestmark = pytest.mark.demo

QUESTION = "Which city is the capital of Japan?"
SHOWN = "<|im_start|> user ⏎ Which ␣city ␣is ␣the ␣capital ␣of ␣Japan ? <|im_end|> ⏎"


def test_the_template_is_read_as_transformers_does(demo: ms.Model) -> None:
    tokenizer = demo.language_model.tokenizer
    messages = [{"role": "user", "content": QUESTION}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    prompt = demo.chat_prompt(QUESTION)
    found = demo.predict(prompt)
    assert list(found.token_ids) == expected
    assert found.tokens.count("<|im_start|>") == 3
    assert found.table["token"][0] == "The"
    result = demo.attribute(f"{prompt.text}The capital of Japan is", " Tokyo", top=3, query=False)
    assert result.token_ids[: len(expected)] == found.token_ids
    assert result.target.rank == 1


@pytest.mark.parametrize(
    "command",
    [
        ["predict", QUESTION],
        ["attribute", QUESTION, "--top", "2", "--no-query"],
        ["links", QUESTION, "--values", "1", "--depth", "1"],
        ["head", "23.4", QUESTION],
        ["ablate", QUESTION, "--head", "23.4", "--seeds", "1"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_shows_the_prompt_as_tokens(command: list[str]) -> None:
    shown = " ".join(printed(*command, "--chat").split())
    assert SHOWN in shown


def test_json_and_page_show_the_tokens_too(tmp_path: Path) -> None:
    found = json.loads(printed("predict", QUESTION, "--chat", "--json"))
    assert found["tokens"][0] == "<|im_start|>"
    assert found["prompt"].endswith("<|im_start|>assistant\n")
    page = tmp_path / "page.html"
    printed("attribute", QUESTION, "--chat", "--top", "2", "--no-query", "--out", str(page))
    assert "&lt;|im_end|&gt;" in page.read_text(encoding="utf-8")
