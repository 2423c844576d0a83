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
from dataclasses import dataclass
from email.message import Message
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


def fields(wheel: Path) -> Message:
    """The metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(metadata))


def test_the_wheel_names_licences_and_is_typed(wheel: Path) -> None:
    assert fields(wheel)["License-Expression"] == "Apache-2.0 AND CC-BY-4.0 AND MIT AND Unicode-3.0"
    assert fields(wheel).get_all("License-File") == ["LICENSE", "THIRD_PARTY_NOTICES"]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
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


@dataclass(frozen=True)
class Install:
    """An environment, in whose folder nothing of the checkout is."""

    venv: Path
    uv: str

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of the environment."""
        return run(self.venv / "bin" / program, *arguments, cwd=self.venv, PYTHONPATH="")

    def install(self, package: str) -> None:
        """Install a package at the tested versions; all packages must fit together afterwards."""
        options = (
            "--quiet",
            "--python",
            self.venv / "bin" / "python",
            "--constraint",
            ROOT / "requirements.lock",
        )
        run(self.uv, "pip", "install", *options, package, cwd=self.venv, PYTHONPATH="")
        self.run("python", "-m", "pip", "check")


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """A new environment with the wheel and nothing but what it requires, at the tested versions."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert uv, "uv is needed; install it"
    folder = tmp_path_factory.mktemp("fresh")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    torch = re.search(r"^torch==.*$", lock, re.M)
    assert torch
    made = Install(folder / "venv", uv)
    run(uv, "venv", "--quiet", "--seed", "--python", sys.executable, made.venv, cwd=folder, PYTHONPATH="")
    # pip first: it finds a build of torch for processors where one is at hand, as .ci/install does.
    made.run("python", "-m", "pip", "install", "--quiet", "--no-deps", torch[0])
    made.install(str(wheel))
    return made


@pytest.mark.nightly
@pytest.mark.demo
@pytest.mark.timeout(1800)
def test_the_wheel_answers_in_a_fresh_environment(fresh: Install) -> None:
    command = ("attribute", "The capital of Japan is the city of", "--target", " Tokyo", "--top", "10")
    assert "24.1005" in fresh.run("mnemoscope", *command)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_extras_are_named_where_they_are_missing_and_install(fresh: Install, wheel: Path) -> None:
    missing = subprocess.run(
        [fresh.venv / "bin" / "mnemoscope", "serve"],
        cwd=fresh.venv,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert missing.returncode == 2
    assert re.fullmatch(r"error: .*pip install '\.\[web\]'.*\n", missing.stderr)
    extras = set(fields(wheel).get_all("Provides-Extra") or ())
    assert {"peft", "ray", "study", "web"} < extras
    for extra in extras:
        fresh.install(f"{wheel}[{extra}]")
