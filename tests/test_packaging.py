"""The wheel and the sdist hold what they should, and the wheel works where nothing of the checkout is."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build", reason="build is not installed; run make test-site")
pytest.importorskip("hatch_vcs")
pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command in a folder and return what it prints; its errors are the test's."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def test_the_wheel_names_licences_and_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        fields = email.message_from_bytes(archive.read(metadata))
    assert fields["License-Expression"] == "Apache-2.0 AND CC-BY-4.0 AND MIT AND Unicode-3.0"
    assert fields.get_all("License-File") == ["LICENSE", "THIRD_PARTY_NOTICES"]
    assert "mnemoscope/py.typed" in names
    extra = [name for name in names if not re.match(r"mnemoscope(-[\w.]+\.dist-info)?/", name)]
    assert extra == []
    in_source = {
        f"mnemoscope/{path.relative_to(ROOT / 'src' / 'mnemoscope').as_posix()}"
        for path in (ROOT / "src" / "mnemoscope").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert in_source == {name for name in names if ".dist-info/" not in name}


def test_the_sdist_holds_what_git_does(dist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("git's folder is not here")
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    assert held == {name for name in listed if not name.startswith(".github/")} | {"PKG-INFO"}


def test_the_wheel_imports_without_warnings_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    run(*pip, "--target", target, wheel, cwd=empty)
    code = "import mnemoscope, mnemoscope.cli; print(mnemoscope.__version__, mnemoscope.__file__)"
    printed = run(sys.executable, "-W", "error", "-c", code, cwd=empty, PYTHONPATH=str(target))
    version, path = printed.split()
    assert wheel.name.startswith(f"mnemoscope-{version}-")
    assert Path(path).is_relative_to(target)


@pytest.mark.nightly
@pytest.mark.demo
@pytest.mark.timeout(1800)
def test_the_wheel_answers_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """Installed with the locked versions, it answers the README's first example."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert uv, "uv is needed; install it"
    fresh = tmp_path / "fresh"
    run(uv, "venv", "--quiet", "--seed", "--python", sys.executable, fresh, cwd=tmp_path, PYTHONPATH="")
    python = fresh / "bin" / "python"
    lock = ROOT / "requirements.lock"
    torch = re.search(r"^torch==.*$", lock.read_text(), re.M)
    assert torch
    # pip first: it finds a build of torch for processors where one is at hand, as .ci/install does.
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", torch[0], cwd=tmp_path, PYTHONPATH="")
    run(
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--constraint",
        lock,
        wheel,
        cwd=tmp_path,
        PYTHONPATH="",
    )
    run(python, "-m", "pip", "check", cwd=tmp_path, PYTHONPATH="")
    command = ("attribute", "The capital of Japan is the city of", "--target", " Tokyo", "--top", "10")
    printed = run(fresh / "bin" / "mnemoscope", *command, cwd=tmp_path, PYTHONPATH="")
    assert "24.1005" in printed
