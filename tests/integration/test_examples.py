"""The example notebooks run from top to bottom, and show what is stored with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.demo

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("first_look", "methods", "query_links", "editing", "study")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_is_stored(name: str) -> None:
    stored = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    fresh = nbformat.from_dict(stored)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=600).execute()
    for before, after in zip(stored.cells, fresh.cells, strict=True):
        if before.cell_type == "code":
            assert [sorted(shown) for shown in forms(before)] == [sorted(shown) for shown in forms(after)], (
                before.source
            )


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(NAMES)


def forms(cell: Any) -> list[list[str]]:
    """The forms in which each output of a cell is shown, such as `text/html`; of a print its stream."""
    return [
        list(output.data) if "data" in output else [output.get("name", output.output_type)]
        for output in cell.outputs
        if output.get("name") != "stderr"
    ]
