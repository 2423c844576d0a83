"""What a study cannot be written to is told in one line, and nothing there is changed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mnemoscope as ms
from command_line import run
from mnemoscope.cli import main
from mnemoscope.errors import OutputError
from mnemoscope.study.runner import Source, run_study
from mnemoscope.study.store import MANIFEST
from studies import FACTS, OPTIONS, arguments, run_command, save_facts, tables
from support import built, open_tiny

pytestmark = pytest.mark.process
Refused = Callable[..., str]
FEW = FACTS[:4]


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    return save_facts(tmp_path / "facts.jsonl", FEW)


@pytest.fixture(scope="module")
def study(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole study."""
    folder = tmp_path_factory.mktemp("whole")
    facts = save_facts(folder / "facts.jsonl", FEW)
    assert run(*arguments(model, facts, folder / "study")).returncode == 0
    return folder / "study"


@pytest.fixture
def refused(
    model: Path, facts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Refused:
    """Ask for a study in a folder that must be refused; the line that tells why. Nothing there may change."""

    def asked(out: Path, *options: str) -> str:
        before = contents(out)
        monkeypatch.setattr(sys, "argv", ["mnemoscope", *arguments(model, facts, out), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        assert contents(out) == before
        *_, line = printed.err.splitlines()
        assert line.startswith("error: ")
        assert str(out) in line
        return line

    return asked


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file, and when it was written, which a rewriting with the same bytes would change."""
    return {
        f"{path} {path.stat().st_mtime_ns}": path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--rank=96"], "options.rank is 97 there and 96 here"),
        (["--only=relation 1"], "facts.n is 4 there and 1 here"),
        (["--dtype=bfloat16"], "dtype is"),
    ],
)
def test_a_manifest_that_does_not_match(study: Path, refused: Refused, options: list[str], told: str) -> None:
    line = refused(study, *options)
    assert told in line
    assert "choose another folder" in line


def test_a_study_of_another_model(study: Path, refused: Refused, tmp_path: Path, model: Path) -> None:
    (tmp_path / "other").symlink_to(model)
    assert "model is" in refused(study, f"--model={tmp_path / 'other'}")


def test_a_study_of_other_weights_of_the_same_name_and_size(
    study: Path, refused: Refused, tmp_path: Path, model: Path
) -> None:
    other = tmp_path / model.name
    shutil.copytree(model, other)
    changed = built("llama")
    changed.get_input_embeddings().weight.data[5] *= 2
    changed.save_pretrained(other)
    assert ms.load(other).revision == ms.load(model).revision
    assert "which is another one: weights is" in refused(study, f"--model={other}")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"schema_version": 99}, "a newer Mnemoscope wrote it"),
        ({"schema_version": 1}, "an older Mnemoscope wrote it"),
        ({"format": "diary"}, "not of a study"),
        ({"manifest": {"kind": "comparison of methods"}}, "which is another one"),
    ],
)
def test_a_folder_of_something_else(
    study: Path, refused: Refused, changed: dict[str, object], told: str
) -> None:
    path = study / MANIFEST
    before = path.read_bytes()
    path.write_text(json.dumps({**json.loads(before), **changed}))
    try:
        assert told in refused(study)
    finally:
        path.write_bytes(before)


def test_a_folder_that_is_no_study(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("all I have")
    assert "holds something else ('chapter.tex')" in refused(tmp_path / "thesis")


@pytest.mark.parametrize("name", ["new", "begun"])
def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tiny = open_tiny(built("llama"))
    source = Source("facts", FEW)
    monkeypatch.chdir(tmp_path)  # the folders above are for root alone
    run_study(tiny, source, Path("begun"), OPTIONS)
    before = contents(tmp_path)
    for folder in (tmp_path, tmp_path / "begun"):
        folder.chmod(0o555)
    with _not_root(), pytest.raises(OutputError, match=f"{name}.*Permission denied; choose another folder"):
        run_study(tiny, source, Path(name), OPTIONS)
    assert contents(tmp_path) == before


@contextmanager
def _not_root() -> Iterator[None]:
    """Root may write everywhere, so it becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_full_disk_costs_what_is_not_written(model: Path, facts: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"
    # No file can become so long: the manifest and the first shards can be written, and a later one cannot.
    code, told = run_command(arguments(model, facts, out), longest=4096)
    assert code == 2
    *_, line = told.splitlines()
    assert line.startswith("error: cannot write ")
    assert "File too large; choose another folder" in line
    written, whole = tables(out), tables(study)
    assert 0 < len(written) < len(whole)
    assert written.items() <= whole.items()
    assert run(*arguments(model, facts, out)).returncode == 0
    assert tables(out) == whole
