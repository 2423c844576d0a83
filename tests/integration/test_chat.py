"""Chat models: the demo model's template, and what the commands show of a chat prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mnemoscope as ms
from command_line import printed
from support import built, save_tiny

QUESTION = "Which city is the capital of Japan?"
SHOWN = "<|im_start|> user ⏎ Which ␣city ␣is ␣the ␣capital ␣of ␣Japan ? <|im_end|> ⏎"
TEMPLATE = "{% for message in messages %}w3 {{ message.content }} w4{% endfor %} w6"


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny model whose tokenizer has a chat template."""
    folder = save_tiny(built("llama"), tmp_path_factory.mktemp("chat") / "tiny")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


@pytest.mark.demo
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
        ["predict", "w5 w17"],
        ["attribute", "w5 w17", "--top", "2", "--no-query"],
        ["links", "w5 w17", "--values", "1", "--depth", "1"],
        ["head", "1.2", "w5 w17"],
        ["ablate", "w5 w17", "--head", "1.2", "--seeds", "1"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_shows_the_prompt_as_tokens(command: list[str], chat_folder: str) -> None:
    assert "w3 w5 w17 w4 w6" in " ".join(printed(*command, "--chat", "--model", chat_folder).split())


@pytest.mark.demo
def test_predict_shows_special_tokens() -> None:
    assert SHOWN in " ".join(printed("predict", QUESTION, "--chat").split())


@pytest.mark.demo
def test_json_and_page_show_the_tokens_too(tmp_path: Path) -> None:
    found = json.loads(printed("predict", QUESTION, "--chat", "--json"))
    assert found["tokens"][0] == "<|im_start|>"
    assert found["prompt"].endswith("<|im_start|>assistant\n")
    page = tmp_path / "page.html"
    printed("attribute", QUESTION, "--chat", "--top", "2", "--no-query", "--out", str(page))
    assert "&lt;|im_end|&gt;" in page.read_text(encoding="utf-8")
