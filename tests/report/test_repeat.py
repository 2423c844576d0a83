"""The command and the Python lines of a report repeat its result."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import mnemoscope as ms
from command_line import printed
from mnemoscope.attribution.options import AttributionOptions
from mnemoscope.cli import app
from mnemoscope.report.repeat import command_lines, comparison_command, comparison_python, python_lines
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.targets import Provenance, Target, Targets
from mnemoscope.results.texts import CutToken
from mnemoscope.testing import words

PROMPT = words(5, 17, 80, 33)
OTHER_VALUES = {"top": 3, "neurons": "all", "by": "total"}


@pytest.fixture(scope="module")
def model(llama_folder: str) -> ms.Model:
    return ms.load(llama_folder)


def options_of(command: str) -> dict[str, Any]:
    """The options that the command line reads from a command; it refuses one that it does not have."""
    _, name, *arguments = shlex.split(command.replace("\\\n", ""))
    return get_command(app).commands[name].make_context(name, arguments).params  # type: ignore[attr-defined]


def origin(model: str, revision: str, dtype: str = "float32", **options: Any) -> Provenance:
    return Provenance(model, revision, "A", dtype, {}, {"add_special_tokens": True, **options})


@pytest.mark.parametrize("option", [option.name for option in fields(AttributionOptions)])
def test_the_command_has_each_option_that_is_not_the_default(model: ms.Model, option: str) -> None:
    default = getattr(AttributionOptions(), option)
    value = OTHER_VALUES.get(option, not default)
    result = model.attribute(PROMPT, **{"top": 2, option: value})
    assert options_of(command_lines(result))[option] == value
    assert f"{option}={value!r}" in python_lines(result)


def repeated(command: str, folder: str) -> dict[str, Any]:
    """The result of a command, as JSON."""
    _, *arguments = shlex.split(command.replace("\\\n", ""))
    arguments = [folder if word == f"path/to/{Path(folder).name}" else word for word in arguments[:-2]]
    return json.loads(printed(*arguments, "--json"))


def repeated_in_python(lines: str, folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(lines.replace(f"path/to/{Path(folder).name}", folder), scope)
    return scope["result"]


@pytest.mark.parametrize("adds", [True, False], ids=["special", "plain"])
def test_a_prompt_is_read_as_before(
    model: ms.Model, llama_folder: str, adds: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prompt = model.prompt(PROMPT, add_special_tokens=adds)
    result = model.attribute(prompt, " w40", top=2, effects=False)
    found = repeated(command_lines(result), llama_folder)
    assert found["tokens"] == list(result.tokens)
    assert found["target"]["log_probability"] == pytest.approx(result.targets.value, abs=1e-6)
    again = repeated_in_python(python_lines(result), llama_folder, monkeypatch, tmp_path)
    assert again.token_ids == result.token_ids
    assert again.layers.equals(result.layers)


def test_ids_that_a_text_gives_are_written_as_the_text(model: ms.Model) -> None:
    result = model.attribute(list(model.prompt(PROMPT).ids), top=2)
    assert shlex.quote(result.prompt) in command_lines(result)


@pytest.mark.demo
def test_ids_that_no_text_gives_stay_ids(demo: ms.Model) -> None:
    vocabulary = demo.tokenizer.get_vocab()
    ids = [vocabulary[piece] for piece in ("In", "Ġo", "f")]
    for result in (
        demo.attribute(ids, top=2, effects=False, query=False),
        demo.attribute_continuation(ids, " New York", top=2, effects=False, query=False),
    ):
        assert result.prompt == "In of"
        assert command_lines(result).startswith("# no text")
        assert f"({ids!r}, " in python_lines(result)
    compared = demo.compare(ids, "In", top=2)
    assert comparison_command(compared).startswith("# no text")
    assert f"({ids!r}, 'In', " in comparison_python(compared)


def test_prompts_that_are_read_in_two_ways_are_for_the_library(model: ms.Model) -> None:
    compared = model.compare(PROMPT, model.prompt(PROMPT, add_special_tokens=False), top=2)
    one, other = (side.provenance.options["add_special_tokens"] for side in (compared.a, compared.b))
    assert (one, other) == (True, False)
    assert comparison_command(compared).startswith("# one prompt has special tokens")
    assert f"model.prompt({PROMPT!r}, add_special_tokens=False)" in comparison_python(compared)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (origin("demo", "files-1"), "--model demo"),
        (origin("demo", "files-1", "bfloat16"), "--model demo --dtype bfloat16"),
        (origin("gpt2", "abc"), "--model gpt2 --revision abc --dtype float32"),
        (origin("org/llama", "abc", "float16"), "--model org/llama --revision abc --dtype float16"),
        (origin("/a/llama", "files-1"), "--model path/to/llama --dtype float32"),
        (
            origin("org/adapter on org/base", "abc on def"),
            "--model org/adapter --revision abc --dtype float32",
        ),
        (origin("/a/adapter on org/base", "files-1 on def"), "--model path/to/adapter --dtype float32"),
        (origin("LlamaForCausalLM", "in memory"), "--model path/to/LlamaForCausalLM --dtype float32"),
    ],
)
def test_the_options_open_the_model(model: ms.Model, made: Provenance, expected: str) -> None:
    result = replace(model.attribute(PROMPT, top=2), provenance=made)
    command = " ".join(command_lines(result).replace("\\\n", "").split())
    assert f" {expected} --out" in command
    assert options_of(command_lines(result))["model"] == shlex.split(expected)[1]
    compile(python_lines(result), "lines", "exec")


def test_a_loaded_model_is_given_as_it_is(llama: ms.Model) -> None:
    assert "ms.load((hf_model, tokenizer))" in python_lines(llama.attribute(PROMPT, top=2))


def test_cut_tokens_are_named_by_their_ids(model: ms.Model) -> None:
    compared = model.compare(PROMPT, PROMPT, top=2)
    cut = Target(7, CutToken("\ufffd", b"\xe6\x97"), 1, 0.5, -0.7)
    side = replace(compared.a, targets=Targets((cut,), (cut,), 0.0))
    told = options_of(comparison_command(replace(compared, a=side, b=side)))
    names = ("target_a_id", "target_b_id", "against_a_id", "against_b_id")
    assert {name: told[name] for name in names} == {name: [7] for name in names}


def test_older_results_are_written_as_text_where_their_tokens_spell_it(model: ms.Model) -> None:
    result: Attribution = model.attribute(PROMPT, top=2)
    former = Provenance("org/llama", "abc", "A", "float32", {}, {"top": 2})
    older = replace(result, provenance=former, tokens=(PROMPT,))
    assert shlex.quote(PROMPT) in command_lines(older)
    assert repr(list(result.token_ids)) in python_lines(replace(older, tokens=("<s>", PROMPT)))
