"""Mistakes on the command line: one sentence that says what to write instead, and exit code 2."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer
from torch.nn.modules.module import register_module_forward_pre_hook

import mnemoscope as ms
from command_line import refused, run
from made_study import made_study
from mnemoscope._arguments import DTYPES, device_name, dtype_name
from mnemoscope.cli import app, options
from mnemoscope.errors import missing_extra
from mnemoscope.testing import word_tokenizer
from support import built

# Each command that runs a model, with what it needs.
WITH_A_MODEL = (
    ["attribute", "A"],
    ["predict", "A"],
    ["links", "A"],
    ["ablate", "A"],
    ["compare", "A", "B"],
    ["circuit", "find", "A"],
    ["methods", "A"],
    ["neuron", "1.2"],
    ["head", "1.2", "A"],
    ["models", "check", "demo"],
    ["serve"],
    ["mcp"],
    ["study", "run", "--out", "new"],
)


def command_name(command: list[str]) -> str:
    return "-".join(command[:2])


@pytest.mark.parametrize("command", WITH_A_MODEL, ids=command_name)
@pytest.mark.parametrize(
    ("mistake", "remedy"),
    [
        (["--device", "gpu"], "the device 'gpu' is not known; write cuda"),
        (["--dtype", "fp16"], "dtype is 'fp16'; write float16"),
        (["--threads", "100000"], f"this machine has {os.cpu_count()} CPUs; give at most so many"),
        (["--threads", "1.5"], "--help` shows how to call it"),
        (["--devise", "cpu"], "--device"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_every_command_names_the_right_word(
    command: list[str], mistake: list[str], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Before a model is opened: that would make a cache.
    assert remedy in refused(*command, *mistake, MNEMOSCOPE_CACHE=str(tmp_path / "cache"))
    assert list(tmp_path.iterdir()) == []


def test_every_command_that_opens_a_model_is_among_these() -> None:
    names = {command[0] for command in WITH_A_MODEL}
    taking = {
        name for name, command in typer.main.get_command(app).commands.items() if takes_a_device(command)
    }
    assert taking == names


def takes_a_device(command: object) -> bool:
    inner = getattr(command, "commands", {}).values()
    return any(parameter.name == "device" for parameter in command.params) or any(map(takes_a_device, inner))


@pytest.mark.parametrize("command", ["attribute", "predict", "links", "ablate", "methods"])
def test_a_prompt_without_quotes(command: str) -> None:
    said = refused(command, "The", "capital", "of", "Japan", "--threads", "1")
    assert "more words follow 'The'; put the whole prompt in quotes" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["head", "23.4", "The", "capital"], "put the whole prompt in quotes"),
        (["attribute"], "there is no prompt; give PROMPT in quotes, - to read stdin, or --prompt-file"),
        (["neuron", "24", "1005"], "`mnemoscope neuron --help`"),
        (["nosuch"], "no such command 'nosuch'; `mnemoscope --help`"),
        (["study", "run"], "missing option '--out'; `mnemoscope study run --help`"),
        (["methods", "A", "--relation", "capital"], "--relation says nothing without --facts"),
        (["study", "sql", "select 1"], "give the study's folder, and then the query in quotes"),
        (["study", "sql", "here", "select", "1"], "there is no folder select; name the studies' folders"),
        pytest.param(
            ["predict", "A", "--revision", "main"],
            "demo is no repository of the hub; leave it out",
            marks=pytest.mark.demo,
        ),
        (["attribute", "A", "--revision", "main", "--dry-run"], "demo is no repository of the hub"),
        (["models", "check", "here", "--revision", "main"], "here is no repository of the hub"),
    ],
)
def test_other_mistakes(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("here/config.json").touch()
    assert message in refused(*arguments)


@pytest.mark.parametrize("command", [["report"], ["export", "OUT"], ["sql", "select 1"]], ids=command_name)
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "there is no folder nowhere"),
        ("other", "there is no study in other"),
        ("file", "file"),
        ("comparison", "there is no study in comparison, but a comparison"),
    ],
)
def test_a_folder_that_is_no_study(
    command: list[str], folder: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other").mkdir()
    Path("other", "a.txt").touch()
    Path("file").touch()
    made_study(Path("comparison"), kind="comparison")
    said = refused("study", command[0], folder, *command[1:])
    assert message in said
    assert "name a folder that `mnemoscope study run --out` made" in said or "in quotes" in said
    assert not Path("OUT").exists()


def test_facts_without_relation(tmp_path: Path) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text(json.dumps({"prompt": "The capital of France is", "target": "Paris"}))
    said = refused("methods", "--facts", str(facts))
    assert 'it has no "relation"' in said
    assert 'add one, such as "relation": "capital"' in said
    assert "--relation of `mnemoscope methods`" in said


def test_the_remedy_for_facts_without_relation_works(llama_folder: str, tmp_path: Path) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text(json.dumps({"prompt": "w5 w17", "target": "w3"}))
    said = run("methods", "--facts", str(facts), "--relation", "r", "--model", llama_folder).stderr
    assert "relation" not in said.replace("answer of the relation", "")


@pytest.mark.parametrize("command", ["attribute", "predict", "links", "ablate", "methods"])
def test_an_empty_stdin_is_an_empty_prompt(command: str, llama_folder: str) -> None:
    assert "the prompt is empty" in refused(command, "-", "--model", llama_folder)


@pytest.mark.parametrize("given", [*DTYPES, torch.float32, torch.bfloat16, torch.float16, "torch.float16"])
def test_names_of_types(given: str | torch.dtype) -> None:
    assert dtype_name(given) == str(given).removeprefix("torch.")
    assert getattr(torch, dtype_name(given) or "") == (
        given if isinstance(given, torch.dtype) else getattr(torch, str(given).removeprefix("torch."))
    )


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("fp16", "write float16"),
        ("half", "write float16"),
        ("BF16", "write bfloat16"),
        ("fp32", "write float32"),
        ("auto", "leave it out"),
        ("int8", "give one of float32, bfloat16, float16"),
        (torch.float64, "give one of float32, bfloat16, float16"),
        (16, "give one of float32, bfloat16, float16"),
    ],
)
def test_other_names_of_types(given: object, remedy: str) -> None:
    for call in (ms.load, lambda *a, **k: ms.estimate(*a, "A", **k)):
        with pytest.raises(ms.OptionError, match=remedy):
            call("demo", dtype=given)


@pytest.mark.parametrize("given", ["cpu", "cuda", "cuda:1", "mps", "auto", torch.device("cuda", 1), None])
def test_names_of_devices(given: str | torch.device | None) -> None:
    assert device_name(given) == (None if given is None else str(given))


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("gpu", "write cuda"),
        ("GPU:1", "write cuda:1"),
        ("CUDA", "write cuda"),
        (0, "write cuda:0"),
        ("meta", "give cpu, cuda"),
        ("cuda:x", "give cpu, cuda"),
        ("", "give cpu, cuda"),
        (torch.device("meta"), "give cpu, cuda"),
    ],
)
def test_other_names_of_devices(given: object, remedy: str) -> None:
    with pytest.raises(ms.OptionError, match=remedy):
        ms.load("demo", device=given)  # pyright: ignore[reportArgumentType]


def test_types_and_devices_of_torch_open_a_model(llama_folder: str) -> None:
    model = ms.load(llama_folder, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert next(model.language_model.model.parameters()).dtype == torch.bfloat16
    assert model.dtype == "bfloat16"


@pytest.mark.parametrize("option", [{"dtype": "float32"}, {"device": "cpu"}, {"revision": "main"}])
def test_a_loaded_model_is_taken_as_it_is(option: dict[str, str]) -> None:
    model = built("llama")
    with pytest.raises(
        ms.OptionError, match=f"a loaded model is taken as it is; leave {next(iter(option))} out"
    ):
        ms.load((model, word_tokenizer(97)), **option)


@pytest.fixture
def _threads_again():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_again")
def test_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(options, "_CPU_QUOTA", quota)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert options.usable_cpus() == 6
    for text, expected in (("max 100000", 6), ("400000 100000", 4), ("50000 100000", 1), ("", 6)):
        quota.write_text(text)
        assert options.usable_cpus() == expected
    torch.set_num_threads(7)
    options.set_threads(None)
    assert torch.get_num_threads() == 6
    options.set_threads(3)
    assert torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    options.set_threads(None)  # torch has followed it already
    assert torch.get_num_threads() == 3
    with pytest.raises(ms.OptionError, match="--threads is 9, but this machine has 8 CPUs"):
        options.set_threads(9)


@pytest.mark.usefixtures("_threads_again")
@pytest.mark.parametrize("command", [["predict", "w5"], ["models", "check"]], ids=command_name)
def test_a_command_runs_on_its_threads(command: list[str], llama_folder: str) -> None:
    where = [llama_folder] if command[0] == "models" else ["--model", llama_folder]
    torch.set_num_threads(2)
    seen: set[int] = set()
    hook = register_module_forward_pre_hook(lambda *_: seen.add(torch.get_num_threads()))
    try:
        done = run(*command, *where, "--threads", "1")
    finally:
        hook.remove()
    assert done.returncode == 0, done.stderr
    assert seen == {1}


def test_missing_extras_are_told_alike() -> None:
    assert missing_extra("serving", "web") == (
        "serving needs the extra web, which is not installed; "
        "run `pip install '.[web]'` in a checkout of Mnemoscope"
    )
    package = Path(ms.__file__).parent
    told = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "pip install" in path.read_text(encoding="utf-8")
    }
    assert told == {"errors.py"}


def test_serving_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from mnemoscope.cli import serve

    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    with pytest.raises(ms.OptionError, match=r"pip install '\.\[web\]'"):
        serve.serve()
