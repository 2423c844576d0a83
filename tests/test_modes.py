"""Files that are written may be read by whom the umask lets, like any file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import mnemoscope as ms
from mnemoscope._io import give_usual_modes, write_atomically
from mnemoscope.study.store import Store
from support import built, open_tiny, words

PROMPT = words(5, 17, 80, 33)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")


@pytest.fixture(
    params=[0o027, *(pytest.param(mask, marks=pytest.mark.nightly) for mask in (0o022, 0o077))], ids=oct
)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """Of the files and of the folders under a folder, itself included."""
    paths = [folder, *folder.rglob("*")]
    files = {path.stat().st_mode & 0o777 for path in paths if path.is_file()}
    return files, {path.stat().st_mode & 0o777 for path in paths if path.is_dir()}


def test_an_edited_checkpoint(umask: int, tmp_path: Path) -> None:
    open_tiny(built("llama")).edit([ms.FFNNeuron(0, 3)], save_to=tmp_path / "edited")
    assert modes(tmp_path / "edited") == ({0o666 & ~umask}, {0o777 & ~umask})


def test_shards_too(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    built("llama").save_pretrained(folder, max_shard_size="20kB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    give_usual_modes(folder)
    assert modes(folder)[0] == {0o666 & ~umask}


def test_results_charts_and_studies(umask: int, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    result = open_tiny(built("llama")).attribute(PROMPT, 40, top=5)
    result.save(tmp_path / "results" / "result.json")
    result.save(tmp_path / "results" / "result.parquet")
    result.save_charts(tmp_path / "results" / "charts")
    with Store.open(tmp_path / "results" / "study", {"model": "tiny"}):
        pass
    write_atomically(tmp_path / "results" / "plain", b"1")
    write_atomically(tmp_path / "results" / "plain", b"2")
    assert modes(tmp_path / "results") == ({0o666 & ~umask}, {0o777 & ~umask})
