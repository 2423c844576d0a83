"""`mnemoscope cache`: the models that are kept, and their removal."""

from __future__ import annotations

import json
import os

import pytest

from command_line import printed, refused, run
from mnemoscope.model import cache
from mnemoscope.model.cache import write_manifest
from mnemoscope.model.demo import demo_folder
from tiny_gguf import write_gguf


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder with what looks like the demo model."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))
    demo_folder().mkdir(parents=True)
    (demo_folder() / "config.json").write_text("{}")
    write_manifest(demo_folder(), {})
    return tmp_path / "cache"


def test_kept_models_are_listed_and_removed(tmp_path, folder):
    gguf = str(write_gguf(tmp_path / "tiny.gguf"))
    done = run("predict", "the", "--model", gguf, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(printed("cache", "--json"))
    assert [(model["kind"], model["source"]) for model in found["models"]] == [
        ("gguf", gguf),
        ("demo", "demo"),
    ]
    assert found["folder"] == str(folder)
    assert found["limit"] == 20_000_000_000
    assert found["total"] == sum(model["bytes"] for model in found["models"])
    for model in found["models"]:
        files = (folder / model["name"]).iterdir()
        assert model["bytes"] == sum(file.stat().st_size for file in files)
    shown = "".join(printed("cache").split())  # long paths are folded
    assert "tiny.gguf" in shown
    assert "demomodel" in shown
    assert "20,000MB(MNEMOSCOPE_CACHE_LIMIT)" in shown
    assert "1 removed" in printed("cache", "tiny.gguf", "--empty")
    assert [model["kind"] for model in json.loads(printed("cache", "--json"))["models"]] == ["demo"]
    (folder / "gguf-0123456789abcdef.part-left").mkdir()
    assert "1 removed" in printed("cache", "--empty")
    assert [path for path in folder.iterdir() if path.is_dir()] == []
    assert json.loads(printed("cache", "--json"))["models"] == []
    assert "0 MB" in printed("cache")


def test_a_file_is_no_cache_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "file"))
    for options in ([], ["--empty"], ["--json"]):
        assert f"cannot list the cache folder {tmp_path / 'file'}" in refused("cache", *options)


def test_an_unknown_name_is_refused(folder):
    assert "no model 'other.gguf' is kept" in refused("cache", "other.gguf")
    assert "no model 'other.gguf' is kept" in refused("cache", "other.gguf", "--empty")
    assert demo_folder().exists()


def test_a_cache_that_is_not_there_is_empty(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    assert json.loads(printed("cache", "--empty", "--json", MNEMOSCOPE_CACHE=nowhere))["models"] == []


def test_a_limit_that_is_no_number_is_refused(folder):
    assert "give gigabytes" in refused("cache", MNEMOSCOPE_CACHE_LIMIT="much")


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is open")
def test_a_model_that_is_being_opened_is_not_removed(folder):
    with cache.using(demo_folder()):
        assert "in use by another process" in refused("cache", "demo", "--empty")
    assert demo_folder().exists()
