"""Every snippet of the README, of the documentation and of the notebooks runs as it is written.

The Python blocks of a page run in order in one namespace, its commands one after the other, all in the
tests' own process, on the demo model that is open, and in one folder that has the files that the snippets
name. On each push every Python block is checked against the types of the package, every command is parsed
with its options, and some pages run; all pages run nightly.

A block behind the comment `<!-- snippet: parsed only, REASON -->` names what is not here, or takes minutes:
it is compiled, or its commands are parsed with all their options.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from command_line import demo_stays_open, run
from made_study import made_study
from mnemoscope.cli import app
from snippets import LANGUAGES, PAGES, ROOT, Block, Command, blocks, commands

# Pages that take more than 5 processor seconds, and what makes the same calls of the demo model on each push.
NIGHTLY_PYTHON = {
    "README": "the page index, tests/api/test_user_script on a tiny model",
    "batches": "tests/api, tests/intervention",
    "charts": "the notebooks, tests/cli/test_charts",
    "compare": "tests/cli/test_compare, tests/report/test_comparison",
    "interventions": "the README's Python, tests/intervention",
    "models": "test_chat",
    "query": "the notebook query_links, tests/cli/test_query_ablation",
    "scores": "the README's Python, test_continuation",
    "studies_tables": "tests/report/test_study_report and tests/study, on the same study",
}
NIGHTLY_COMMANDS = {
    "README": "tests/cli, tests/integration",
    "charts": "tests/cli",
    "compare": "tests/cli/test_compare",
    "index": "tests/cli, tests/integration",
    "install": "tests/cli",
    "models": "test_chat",
    "scores": "tests/cli/test_readings, tests/cli/test_targets, tests/integration/test_continuation",
    "studies": "tests/cli/test_study; tests/report/test_study_report, on the same study",
}
PYTHON_WITHOUT_DEMO = {
    "adding_a_family",
    "adding_a_method",
    "fine_tuned",
    "studies",
    "studies_cluster",
    "studies_tables",
    "serve",
}
COMMANDS_WITHOUT_DEMO = {"methods", "studies"}
IN_PYTHON = [page for page in PAGES if any(b.language == "python" for b in blocks(page))]
IN_SHELL = [page for page in PAGES if any(b.language in {"bash", "console"} for b in blocks(page))]
FACT = {"prompt": "The capital of France is", "target": "Paris", "relation": "capital"}
RELATION = {
    "name": "capital",
    "prompt_templates": ["The capital of {} is"],
    "samples": [{"subject": "France", "object": "Paris"}],
}


def name(page: Path) -> str:
    return page.stem


def marked(pages: list[Path], nightly: dict[str, str], without_demo: set[str]) -> list[Any]:
    """Pages as parameters of a test, with its marks; all that are named must be among them."""
    assert nightly.keys() | without_demo <= {page.stem for page in pages}
    found = []
    for page in pages:
        marks = [pytest.mark.nightly] if name(page) in nightly else []
        marks += [] if name(page) in without_demo else [pytest.mark.demo]
        found.append(pytest.param(page, id=name(page), marks=marks))
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that snippets name."""
    monkeypatch.chdir(tmp_path)
    Path("facts.jsonl").write_text(json.dumps(FACT))
    Path("questions.csv").write_text("question,answer\nOf which country is Lusaka the capital?,Zambia\n")
    Path("lre").mkdir()
    Path("lre", "capital.json").write_text(json.dumps(RELATION))
    for study in ("demo", "first", "other"):
        made_study(Path(study))
    return tmp_path


def runnable(page: Path) -> list[Block]:
    """The Python blocks that run."""
    return [block for block in blocks(page) if block.language == "python" and not block.reason]


def of_shell(page: Path) -> list[tuple[Block, Command]]:
    return [
        (block, command)
        for block in blocks(page)
        if block.language in {"bash", "console"}
        for command in commands(block)
    ]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_names_its_language(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: begin the block with one of {sorted(LANGUAGES)}"
    indented = re.findall(r"^    (?:mnemoscope|pip|python) .*$", page.read_text(encoding="utf-8"), re.M)
    assert indented == [], "put commands between ```bash and ```, so that they are tested"


@pytest.mark.parametrize("page", IN_PYTHON, ids=name)
def test_python_compiles(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, str(block), "exec")


@pytest.mark.process
def test_python_calls_what_there_is(tmp_path: Path) -> None:
    """Names, arguments and attributes are those of the package, by its types."""
    sources = {page.stem: [b.text for b in runnable(page)] for page in IN_PYTHON}
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources[f"notebook_{notebook.stem}"] = [
            "".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code"
        ]
    for stem, texts in sources.items():
        (tmp_path / f"{stem}.py").write_text("".join(texts), encoding="utf-8")
    settings = {
        "typeCheckingMode": "basic",
        "extraPaths": [str(ROOT / "src")],
        "reportUnusedExpression": False,  # what a reader wants to see
        "reportOptionalMemberAccess": False,  # a result's query neurons are there unless they were declined
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    # Pyright spends twenty seconds on one module of transformers; it is to check our names only.
    stub = tmp_path / "typings" / "transformers" / "__init__.pyi"
    stub.parent.mkdir(parents=True)
    stub.write_text("from typing import Any\n\ndef __getattr__(name: str) -> Any: ...\n")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(tmp_path)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("0 errors, 0 warnings")


@pytest.mark.parametrize("page", IN_SHELL, ids=name)
def test_commands_have_the_options_that_they_are_given(page: Path) -> None:
    for block, command in of_shell(page):
        program, *arguments = command.words
        if program == "mnemoscope":
            parse(arguments, str(block))
        elif program == "python":
            assert (ROOT / arguments[0]).is_file(), f"{block}: there is no {arguments[0]}"
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M), str(block)
        elif program == "uv" and arguments[0] == "venv":
            continue
        elif program in {"pip", "uv"}:
            *_, installed = (word for word in arguments if not word.startswith(("-", "https:")))
            assert "install" in arguments, str(block)
            if installed == "torch":
                continue
            extra = re.fullmatch(r"\.(?:\[(\w+)\])?", installed)
            assert extra, f"{block}: Mnemoscope is on no index; write pip install '.[EXTRA]'"
            if extra[1]:
                assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text(), str(block)
        else:
            assert program in {"grep", "curl", "git"}, f"{block}: {program} is not tested here"


def parse(arguments: list[str], where: str) -> None:
    """Parse the arguments of `mnemoscope` without running anything."""
    command, context, called = typer.main.get_command(app), None, "mnemoscope"
    try:
        while True:
            context = command.make_context(called, [*arguments], parent=context)
            rest = [*context._protected_args, *context.args]
            if not hasattr(command, "commands") or not rest:
                break
            called, command, arguments = command.resolve_command(context, rest)
    except Exception as error:
        raise AssertionError(f"{where}: {error}") from error


@pytest.mark.parametrize(
    "arguments", [["attribute", "--nosuch", "x"], ["study", "run"], ["predict", "a", "b"], ["nosuch"]]
)
def test_a_wrong_command_is_found(arguments: list[str]) -> None:
    with pytest.raises(AssertionError):
        parse(arguments, "here")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", marked(IN_PYTHON, NIGHTLY_PYTHON, PYTHON_WITHOUT_DEMO))
def test_python_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules[__name__])
    namespace: dict[str, object] = {"__name__": "snippet"}
    with demo_stays_open():
        for block in runnable(page):
            exec(compile(block.text, str(block), "exec"), namespace)


@pytest.mark.timeout(1800)  # the README has some twenty commands
@pytest.mark.parametrize(
    "page",
    marked(
        [p for p in IN_SHELL if any(not b.reason for b, _ in of_shell(p))],
        NIGHTLY_COMMANDS,
        COMMANDS_WITHOUT_DEMO,
    ),
)
def test_commands_run(page: Path, folder: Path) -> None:
    for block, command in of_shell(page):
        if command.words[0] == "mnemoscope" and not block.reason:
            done = run(*command.words[1:])
            assert done.returncode == 0, f"{block}: {' '.join(command.words)}: {done.stderr}"
            assert done.stdout or "--out" in command.words or "written" in done.stderr, str(block)
