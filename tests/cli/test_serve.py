"""`mnemoscope serve` as people start it: what it refuses before it opens a model, and one real start."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from command_line import COMMAND, printed, refused
from mnemoscope.cli.options import ModelOptions
from mnemoscope.cli.serve import ServedModels
from mnemoscope.errors import OptionError

NOWHERE = "no/such"


def test_help_ends_with_an_example() -> None:
    text = printed("serve", "--help")
    assert text.rstrip().splitlines()[-1].strip() == "mnemoscope serve --open"
    assert "--allow-network" in text


def test_the_name_that_two_models_have_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(options: ModelOptions) -> SimpleNamespace:
        name = "a" if options.model == "a" else f"/{options.model}/llama"
        return SimpleNamespace(name=name, revision="files-1")

    monkeypatch.setattr(ModelOptions, "__post_init__", lambda options: None)
    monkeypatch.setattr(ModelOptions, "open", opened)
    with pytest.raises(OptionError, match="several models are called llama"):
        ServedModels(model=["a", "b", "c"]).open()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in; add --allow-network"),
        (["--host", "::"], "--host :: lets other machines in"),
        (["--host", "10.0.0.1"], "--host 10.0.0.1 lets other machines in"),
        (["--host", "no address"], "--host 'no address' is not an address; give one such as 127.0.0.1"),
        (["--allow-network", "--host", "192.0.2.1"], "cannot listen at 192.0.2.1 port 8765"),
        (["--model", NOWHERE], f"--model {NOWHERE} is given twice"),
    ],
)
def test_options_are_checked_before_a_model_is_opened(options: list[str], message: str) -> None:
    assert message in refused("serve", "--model", NOWHERE, *options)


def test_a_port_that_is_taken_is_told_before_a_model_is_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = refused("serve", "--model", NOWHERE, "--port", str(port))
    assert f"cannot listen at 127.0.0.1 port {port} (Address already in use); give another --port" in told


def test_a_model_that_is_not_there_is_told() -> None:
    assert NOWHERE in refused("serve", "--model", NOWHERE, "--port", "0")


@pytest.fixture
def started(llama_folder: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that a server of the folder's model told, and its process."""
    command = [*COMMAND, "serve", "--model", llama_folder, "--port", "0", "--time-limit", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if "Mnemoscope is at" in line)
        found = re.search(r"http://127\.0\.0\.1:[0-9]+/", told)
        assert found is not None
        yield found[0], process
        process.kill()


@pytest.mark.process
def test_a_server_answers_until_it_is_interrupted(started: tuple[str, subprocess.Popen[str]]) -> None:
    address, process = started
    with urllib.request.urlopen(f"{address}api/models", timeout=30) as answer:
        told = json.load(answer)
    assert told["limits"]["seconds"] == 7
    (model,) = told["models"]
    assert model["architecture"] == "LlamaForCausalLM"
    with urllib.request.urlopen(address, timeout=30) as page:
        assert b"Mnemoscope" in page.read()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "")
