"""Prompts and targets on the command line: stdin, locales, token ids, special tokens, unlikely targets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from command_line import printed, refused, run

BOS = 256
PROMPT = "日本の首都は"
IDS = list(PROMPT.encode())
# Byte-level tokenizers write each byte as a letter: printable ones as themselves, the others from U+0100 on.
_KEPT = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_MOVED = [byte for byte in range(256) if byte not in _KEPT]
_LETTERS = {chr(byte): byte for byte in _KEPT} | {chr(256 + i): byte for i, byte in enumerate(_MOVED)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved model whose tokens are the bytes of UTF-8, a token's id its byte, and BOS in front."""
    tokenizer = Tokenizer(models.BPE({**_LETTERS, "<s>": BOS}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    place = tmp_path_factory.mktemp("bytes") / "model"
    LlamaForCausalLM(config).save_pretrained(place)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(place)
    return str(place)


def found_by(*arguments: str) -> dict[str, Any]:
    """The JSON of a command that may warn of an unlikely target."""
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Several commands in one fresh interpreter, which decodes the arguments of all of them when it starts.
EACH = """if True:
    import sys
    from mnemoscope.cli import main

    words = sys.argv[1:]
    while words:
        end = words.index(";")
        sys.argv, words = ["mnemoscope", *words[:end]], words[end + 1 :]
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        for stream, mark in ((sys.stdout, "\\x1e"), (sys.stderr, f"\\x1e{code}\\x1e")):
            stream.flush()
            stream.buffer.write(mark.encode())
            stream.buffer.flush()
"""


def each_ended(
    *commands: list[str], stdin: bytes = b"", **environment: str
) -> list[subprocess.CompletedProcess[bytes]]:
    """Commands that run one after the other in a process of their own, with bytes as in a terminal."""
    words = [word for command in commands for word in (*command, ";")]
    done = subprocess.run(
        [sys.executable, "-c", EACH, *words],
        input=stdin,
        capture_output=True,
        env={**os.environ, "COLUMNS": "100", **environment},
        timeout=300,
        check=True,
    )
    outputs, errors = (text.split(b"\x1e")[:-1] for text in (done.stdout, done.stderr))
    return [
        subprocess.CompletedProcess(command, int(code), output, error)
        for command, output, error, code in zip(commands, outputs, errors[::2], errors[1::2], strict=True)
    ]


def predicted(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout)


@pytest.mark.process
def test_arguments_and_stdin_are_utf_8_in_the_c_locale_too(folder: str) -> None:
    model = ["--model", folder]
    argument, drawn, target, dash = each_ended(
        ["predict", PROMPT, "--json", *model],
        ["attribute", PROMPT, "--top", "1", "--no-query", *model],
        ["links", "pr", "--target", "é", *model],
        ["predict", "-", "--json", *model],
        stdin=f"{PROMPT}\n".encode(),
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    for found in (predicted(argument), predicted(dash)):
        assert (found["prompt"], found["token_ids"]) == (PROMPT, [BOS, *IDS])
    assert (drawn.returncode, drawn.stderr) == (0, b"")
    assert (target.returncode, target.stdout) == (2, b"")
    assert b"2 tokens" in target.stderr
    assert b"surrogate" not in target.stderr


@pytest.mark.process
def test_a_terminal_without_unicode_is_served(folder: str) -> None:
    prompt = "日本の\tcafé"
    command = ["predict", prompt, "--model", folder]
    drawn, found = each_ended(command, [*command, "--json"], PYTHONIOENCODING="ascii")
    for done in (drawn, found):
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.isascii()
    assert drawn.stdout
    assert json.loads(found.stdout)["prompt"] == prompt


def test_a_dash_is_the_prompt_on_stdin(folder: str) -> None:
    predict = ["predict", "-", "--model", folder]
    for stdin, ids in (
        (PROMPT, IDS),
        (f"{PROMPT}\n", IDS),
        (f"{PROMPT}\r\n", IDS),
        (f"{PROMPT}\n\n", [*IDS, ord("\n")]),
    ):
        found = json.loads(printed(*predict, "--json", stdin=stdin))
        assert found["token_ids"] == [BOS, *ids]
        assert found["prompt"] == bytes(ids).decode()
    assert "the prompt is empty" in refused(*predict)


def test_a_byte_order_mark_is_no_part_of_a_prompt(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(b"\xef\xbb\xbfabc\r\n")
    found = json.loads(printed("predict", "--prompt-file", str(path), "--json", "--model", folder))
    assert found["prompt"] == "abc"


@pytest.mark.process
def test_a_prompt_on_stdin_must_be_utf_8() -> None:
    (done,) = each_ended(["predict", "-"], stdin=b"caf\xe9")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: the prompt on stdin is not UTF-8 (byte 3)")


ON_STDIN = [
    ["attribute", "-", "--dry-run"],
    ["attribute", "-", "--top", "1", "--no-query"],
    ["links", "-", "--values", "1", "--depth", "1"],
    ["head", "0.1", "-"],
    ["ablate", "-", "--head", "0.1", "--seeds", "1"],
    ["methods", "-", "--method", "norm", "--top", "1"],
    ["compare", "-", "b", "--top", "1"],
    ["compare", "b", "-", "--top", "1"],
]


@pytest.mark.parametrize("command", ON_STDIN, ids=lambda command: command[0])
def test_every_command_reads_its_prompt_from_stdin(folder: str, command: list[str]) -> None:
    done = run(*command, "--json", "--model", folder, stdin="abc")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if "tokens" in found:
        assert found["tokens"] == ["<s>", "a", "b", "c"]
    else:
        assert '"abc"' in done.stdout or found["n_tokens"] == 4


@pytest.mark.parametrize("command", ON_STDIN, ids=lambda command: command[0])
def test_special_tokens_can_be_left_out(folder: str, command: list[str]) -> None:
    arguments = ["abc" if part == "-" else part for part in command]
    done = run(*arguments, "--no-special-tokens", "--json", "--model", folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if "tokens" in found:
        assert found["tokens"] == ["a", "b", "c"]
    assert found.get("n_tokens", 3) == 3


def test_targets_are_named_by_their_ids(folder: str) -> None:
    model = ["--model", folder]
    two = ["--target-id", "65", "--target-id", "66", "--against-id", "67"]
    one_neuron = ["--top", "1", "--no-query"]
    several = found_by("attribute", "abc ", *two, *one_neuron, *model)
    assert [target["text"] for target in several["targets"]["answers"]] == ["A", "B"]
    assert [target["text"] for target in several["targets"]["against"]] == ["C"]
    by_text = ["--target", "A", "--target", "B", "--against", "C"]
    same = found_by("attribute", "abc ", *by_text, *one_neuron, *model)
    assert same["targets"] == several["targets"]
    links = found_by("links", "abc ", *two, "--values", "1", "--depth", "1", *model)
    assert links["targets"] == several["targets"]
    for parts in (["--head", "0.1"], ["--top", "1"]):
        found = found_by("ablate", "abc ", "--target-id", "65", *parts, "--seeds", "1", *model)
        assert found["target"] == {"id": 65, "ids": [65], "text": "A"}


def test_an_unlikely_target_is_told_on_stderr(folder: str) -> None:
    model = ["--model", folder]
    table = json.loads(printed("predict", "abc", "--top", "1300", "--json", *model))["predictions"]
    ids = [row["id"] for row in table]
    for command in (
        ["attribute", "abc", "--top", "1", "--no-query"],
        ["links", "abc", "--values", "1", "--depth", "1"],
        ["ablate", "abc", "--head", "0.1", "--seeds", "1"],
    ):
        done = run(*command, "--target-id", str(ids[1000]), *model)
        assert done.returncode == 0
        assert done.stderr.startswith("warning: the target ")
        assert "is number 1,001 of the model's next tokens" in done.stderr
        assert done.stderr.count("\n") == 1
        assert run(*command, "--target-id", str(ids[999]), *model).stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["attribute", "a", "--target", "b", "--target-id", "3"],
        ["attribute", "a", "--against", "b", "--against-id", "3"],
        ["links", "a", "--against", "b", "--against-id", "3"],
        ["ablate", "a", "--target", "b", "--target-id", "3", "--head", "0.1"],
        ["methods", "a", "--target", "b", "--target-id", "3"],
        ["ablate", "a", "--chat", "--facts", "facts.jsonl", "--relation", "capital"],
        ["methods", "--chat", "--facts", "facts.jsonl"],
        ["predict", "a", "--chat", "--no-special-tokens"],
        ["head", "0.1", "a", "--chat", "--no-special-tokens"],
    ],
)
def test_what_excludes_each_other_is_told(arguments: list[str]) -> None:
    first, second = [part for part in arguments if part.startswith("--")][:2]
    assert f"{first} and {second} exclude each other" in refused(*arguments)
