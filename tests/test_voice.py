"""`.ci/check_voice.py` finds forbidden openings of docstrings and citations of what does not exist."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECK = runpy.run_path(str(ROOT / ".ci" / "check_voice.py"))
PAGE = """# The method

```
# no heading
```

## Value score, in nats

[above](#the-method) [code](../src/package/module.py)
"""
SECTION = "docs/" + "method.md#value-score-in-nats"
MODULE = f'''"""Scores of parts."""


class Part:
    """A part of a layer, whatever its kind; see {SECTION}."""

    def score(self) -> float:
        """Return the score in nats."""
        text = """What a string says is no docstring."""
        return float(len(text))
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository in which nothing is wrong."""
    for path, text in {
        "src/package/module.py": MODULE,
        "docs/method.md": PAGE,
        "README.md": f"[method]({SECTION}), [elsewhere](https://example.org/a.md#b)\n",
        "tests/test_module.py": '"""What is tested: see docs/method.md."""\n',
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def found(folder: Path) -> list[str]:
    return [f"{path.as_posix()}:{line}: {message}" for path, line, message in CHECK["findings"](folder)]


def test_what_is_right_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CHECK["main"]([str(folder)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("opening", ["What", "How", "Of", "Which", "It", "Tell", "The same"])
@pytest.mark.parametrize("usual", ["Scores of parts.", "A part of a layer,", "Return the score"])
def test_a_docstring_may_not_open_with_these_words(folder: Path, usual: str, opening: str) -> None:
    line = MODULE[: MODULE.index(usual)].count("\n") + 1
    (folder / "src/package/module.py").write_text(MODULE.replace(usual, f"{opening} is scored."))
    (only,) = found(folder)
    assert only.startswith(f"src/package/module.py:{line}: docstring opens with '{opening} is scored.")


def test_the_former_method_file_may_not_be_cited(folder: Path) -> None:
    (folder / "src/package/module.py").write_text(MODULE + "# METHOD" + " section 3\n")
    (only,) = found(folder)
    assert only.startswith(f"src/package/module.py:{MODULE.count(chr(10)) + 1}: cites METHOD" + " section")


@pytest.mark.parametrize(
    "path", ["src/package/module.py", "docs/method.md", "README.md", "tests/test_module.py"]
)
@pytest.mark.parametrize(
    "cited", ["method.md#no-heading", "method.md#query-score", "nowhere.md", "nowhere.md#a"]
)
def test_a_cited_page_and_heading_must_exist(folder: Path, path: str, cited: str) -> None:
    text = (folder / path).read_text()
    (folder / path).write_text(f"{text}# docs/{cited}\n")
    name = cited.rpartition("/")[2]
    assert found(folder) == [f"{path}:{text.count(chr(10)) + 1}: cites {name}, which does not exist"]


@pytest.mark.parametrize(
    "link", ["(method.md#query-score)", "(#query-score)", "(picture.svg)", "(../none.md)"]
)
def test_a_linked_file_and_heading_must_exist(folder: Path, link: str) -> None:
    (folder / "docs/method.md").write_text(f"{PAGE}[here]{link}\n")
    (only,) = found(folder)
    assert only.startswith(f"docs/method.md:{PAGE.count(chr(10)) + 1}: cites ")


def test_findings_are_counted_by_package(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "src/package/module.py").write_text('"""What."""\n')
    (folder / "src/package/part").mkdir()
    (folder / "src/package/part/module.py").write_text('"""How."""\n\n\ndef part() -> None:\n    """It."""\n')
    assert CHECK["main"](["--by-package", str(folder)]) == 1
    assert capsys.readouterr().out == "    1 src/package/module.py\n    2 src/package/part\n"
