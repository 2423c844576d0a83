"""A file of the demo model that is not as it was made is named, with the remedy, in one line."""

import json

import pytest

from mnemoscope.errors import ModelFileError
from mnemoscope.model.cache import Owner, check_contents, check_sizes, write_manifest
from mnemoscope.model.demo import DEMO


@pytest.fixture
def folder(tmp_path):
    """The demo model's file names with a true manifest, but no model."""
    for name in DEMO.required:
        (tmp_path / name).write_text(f"this is {name}")
    write_manifest(tmp_path, {"package": "none"})
    return tmp_path


def is_refused(check, folder, *parts):
    """Check that a check of a folder ends in one line that has the parts and the remedy."""
    with pytest.raises(ModelFileError) as caught:
        check(folder, DEMO)
    message = str(caught.value)
    assert "\n" not in message
    for part in (*parts, "`mnemoscope demo --repair`"):
        assert part in message


def test_files_as_made_pass(folder):
    assert {path.name for path in check_sizes(folder, DEMO)} == set(DEMO.required)
    check_contents(folder, DEMO)
    assert json.loads((folder / "manifest.json").read_text())["package"] == "none"


@pytest.mark.parametrize("check", [check_sizes, check_contents])
@pytest.mark.parametrize("name", [*DEMO.required, "manifest.json"])
def test_missing_file_is_named(folder, check, name):
    (folder / name).unlink()
    is_refused(check, folder, str(folder / name), "No such file")


@pytest.mark.parametrize("check", [check_sizes, check_contents])
def test_longer_file_is_named(folder, check):
    with (folder / "config.json").open("a") as file:
        file.write("x")
    is_refused(check, folder, str(folder / "config.json"), "it has 20 bytes and not 19")


def test_changed_byte_is_found_by_contents_alone(folder):
    (folder / "tokenizer.json").write_text("This is tokenizer.json")
    check_sizes(folder, DEMO)
    is_refused(check_contents, folder, str(folder / "tokenizer.json"), "SHA-256")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: "",
        lambda text: "[]",
        lambda text: "\0" * len(text),
        lambda text: json.dumps({"files": {}}),
        lambda text: json.dumps({"files": {"config.json": 3}}),
        lambda text: text.replace("model.safetensors", "model.bin"),
    ],
    ids=["cut", "empty", "a list", "zeros", "no file", "no record", "another file"],
)
def test_damaged_manifest_is_named(folder, damage):
    manifest = folder / "manifest.json"
    (folder / "model.bin").write_text("this is model.safetensors")
    manifest.write_text(damage(manifest.read_text()))
    is_refused(check_sizes, folder, str(manifest))


def test_owner_and_remedy_are_those_given(folder):
    owner = Owner("an example", required=("absent.txt",), repair="try again")
    manifest = folder / "manifest.json"
    with pytest.raises(ModelFileError) as caught:
        check_sizes(folder, owner)
    assert str(caught.value) == (
        f"{manifest}: this file of an example is damaged: it does not list absent.txt; try again"
    )
