"""The example notebooks run from top to bottom, and show what is stored with them.

One kernel runs them, each in an empty namespace, on one opened demo model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTS = Path(__file__).parents[1]
# On each push tests/intervention makes the calls of `editing`, tests/study those of `study`, tests/circuit
# those of `circuits`, and tests/cli those of the others; test_snippets checks all by the package's types.
NAMES = (
    "first_look",
    pytest.param("methods", marks=pytest.mark.nightly),
    pytest.param("query_links", marks=pytest.mark.nightly),
    pytest.param("editing", marks=pytest.mark.nightly),
    pytest.param("study", marks=pytest.mark.nightly),
    pytest.param("circuits", marks=pytest.mark.nightly),
)
OPEN = f"""
import sys
sys.path.append({str(TESTS)!r})
from command_line import demo_stays_open
_open = demo_stays_open()
_open.__enter__()
del sys
"""
EMPTY = """
%reset -f
__import__("altair").renderers.enable("default")
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    """The manager of a Jupyter kernel in which the demo model stays open."""
    first = NotebookClient(new_notebook(cells=[new_code_cell(OPEN)]), timeout=600)
    with first.setup_kernel():
        first.execute_cell(first.nb.cells[0], 0)
        yield first.km


@pytest.mark.demo
@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_is_stored(name: str, kernel: Any) -> None:
    stored = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    fresh = nbformat.from_dict(stored)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    fresh.cells.insert(0, new_code_cell(EMPTY))
    NotebookClient(fresh, timeout=600, km=kernel).execute()
    for before, after in zip(stored.cells, fresh.cells[1:], strict=True):
        if before.cell_type == "code":
            assert [sorted(shown) for shown in forms(before)] == [sorted(shown) for shown in forms(after)], (
                before.source
            )


def test_every_notebook_is_run() -> None:
    names = {name if isinstance(name, str) else name.values[0] for name in NAMES}
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == names


def test_a_result_is_shown_once() -> None:
    """The terminal's text is the plain form of a result and no display of its own."""
    for path in EXAMPLES.glob("*.ipynb"):
        assert "white-space:pre;overflow-x:auto" not in path.read_text(encoding="utf-8")


def forms(cell: Any) -> list[list[str]]:
    """The forms in which each output of a cell is shown, such as `text/html`; of a print its stream."""
    return [
        list(output.data) if "data" in output else [output.get("name", output.output_type)]
        for output in cell.outputs
        if output.get("name") != "stderr"
    ]
