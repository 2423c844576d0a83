"""What all commands share: help in groups, how much is said, defaults, prompts from files, errors as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import typer

import mnemoscope as ms
from command_line import printed, refused, run, succeeded
from mnemoscope.cli import app
from mnemoscope.testing import words
from mnemoscope.web import responses

PROMPT = words(5, 17)
QUICK = ("--no-effects", "--no-query", "--top", "3")
HEADINGS = ["Arguments:", "Target:", "Options:", "Prompt:", "Output:", "Model and hardware:"]


def all_commands(group: object, name: str = "") -> list[list[str]]:
    inner = getattr(group, "commands", {})
    return [name.split(), *(c for key, each in inner.items() for c in all_commands(each, f"{name} {key}"))]


COMMANDS = all_commands(typer.main.get_command(app))


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_help_names_no_type_of_python_and_cuts_nothing(command: list[str]) -> None:
    text = printed(*command, "--help")
    assert re.findall(r"<(?:str|int|float|path|bool|list|text|file)\b[^>]*>|INTEGER|FLOAT|PATH", text) == []
    assert "..." not in re.sub(r"(\]|\}|FOLDER|TASK)\.\.\.", "", text)


def test_options_stand_in_groups() -> None:
    lines = printed("attribute", "--help").splitlines()
    assert [line for line in lines if line in HEADINGS] == HEADINGS
    model = lines[lines.index("Model and hardware:") :]
    for flag in ("--model", "--device", "--dtype", "--threads"):
        assert any(line.startswith(f"  {flag} ") for line in model)


def test_completion_is_printed_for_the_shell() -> None:
    completed = run(_MNEMOSCOPE_COMPLETE="complete_bash", COMP_WORDS="mnemoscope attr", COMP_CWORD="1")
    assert completed.stdout.split() == ["attribute"]


def test_the_model_its_type_and_device_may_be_in_the_environment(llama_folder: str, tmp_path: Path) -> None:
    environment = {
        "MNEMOSCOPE_MODEL": llama_folder,
        "MNEMOSCOPE_DTYPE": "bfloat16",
        "MNEMOSCOPE_DEVICE": "cpu",
    }
    found = json.loads(printed("attribute", PROMPT, *QUICK, "--json", **environment))
    assert (found["model"], found["dtype"]) == (Path(llama_folder).name, "bfloat16")
    given = json.loads(printed("attribute", PROMPT, *QUICK, "--json", "--dtype", "float32", **environment))
    assert given["dtype"] == "float32"
    assert "the device 'gpu' is not known" in refused("predict", PROMPT, MNEMOSCOPE_DEVICE="gpu")
    nowhere = str(tmp_path / "nowhere")
    for server in ("serve", "mcp"):
        assert nowhere in refused(server, MNEMOSCOPE_MODEL=nowhere)


def test_prompts_from_a_file_and_from_stdin_are_the_prompt(llama_folder: str, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(f"{PROMPT}\n", encoding="utf-8")
    model = ("--model", llama_folder)
    expected = printed("predict", PROMPT, *model)
    assert printed("predict", "--prompt-file", str(file), *model) == expected
    assert printed("predict", "-", *model, stdin=f"{PROMPT}\n") == expected


def test_mistaken_prompts_are_told(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"caf\xe9")
    assert "there is no prompt; give PROMPT in quotes" in refused("predict")
    assert "PROMPT and --prompt-file exclude each other" in refused("predict", "A", "--prompt-file", __file__)
    assert f"cannot read {tmp_path}" in refused("predict", "--prompt-file", str(tmp_path))
    assert f"the prompt in {file} is not UTF-8 (byte 3)" in refused("predict", "--prompt-file", str(file))


@pytest.mark.parametrize(
    ("arguments", "error", "remedy"),
    [
        (["predict", "A", "--device", "gpu"], "the device 'gpu' is not known; write cuda", None),
        (
            ["predict", "A", "--devise", "cpu"],
            "no such option: --devise",
            "`mnemoscope predict --help` shows",
        ),
        (["predict", "The", "capital"], "more words follow 'The'", "put the whole prompt in quotes"),
        (["predict"], "there is no prompt", None),
    ],
)
def test_errors_are_json_where_the_answer_is(arguments: list[str], error: str, remedy: str | None) -> None:
    done = run(*arguments, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    told = json.loads(done.stderr)
    responses.Error.model_validate(told)
    assert error in told["error"]
    assert remedy in told.get("remedy", "") if remedy else "remedy" not in told


def test_a_prompt_that_looks_like_an_option_asks_for_no_json() -> None:
    assert refused("predict", "--device", "gpu", "--", "--json").startswith("error: ")


def test_quiet_leaves_warnings_and_verbose_adds_the_model_and_the_traceback(llama_folder: str) -> None:
    asked = ("methods", PROMPT, "--method", "coefficient", "--top", "1", "--model", llama_folder)
    usual, quiet, verbose = (run(*asked, *more) for more in ((), ("--quiet",), ("-v",)))
    assert usual.stderr
    # Without the seconds that each took, and the room for them.
    assert re.sub(r"\d| +", "", succeeded(quiet)) == re.sub(r"\d| +", "", usual.stdout)
    assert f"opened {llama_folder} in " in verbose.stderr
    assert "opened" not in usual.stderr
    failed = run("predict", PROMPT, "--verbose", "--model", "/no/such/folder")
    assert failed.returncode == 2
    assert failed.stderr.startswith("Traceback")
    assert failed.stderr.splitlines()[-1].startswith("error: ")
    assert "exclude each other" in refused("predict", PROMPT, "--quiet", "--verbose")


def test_results_are_saved_as_csv(llama_folder: str, llama: ms.Model, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    asked = (PROMPT, "--target", " w40", "--model", llama_folder)
    assert printed("attribute", *asked, *QUICK, "--out", str(file)) == f"saved {file}\n"
    result = llama.attribute(PROMPT, " w40", top=3, effects=False, query=False)
    saved = pd.read_csv(file)
    assert list(saved[saved["table"] == "ffn_neurons"]["neuron"]) == list(result.ffn_neurons["neuron"])
    assert set(saved["table"]) == {name for name, table in result.tables().items() if len(table)}
    printed("attribute", PROMPT, "--target", " w40 w41", *QUICK, "--model", llama_folder, "--out", str(file))
    assert {"layers", "heads", "ffn_neurons"} <= set(pd.read_csv(file)["table"])
    printed("links", *asked, "--values", "2", "--width", "2", "--out", str(file))
    assert set(pd.read_csv(file)["table"]) == {"nodes", "edges"}
