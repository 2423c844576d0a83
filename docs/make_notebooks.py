"""Run the example notebooks in place, to show what this version gives: `python docs/make_notebooks.py`."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "examples"
SECONDS = 600  # that a cell may take


def main() -> None:
    """Run each and write it with what its cells show."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=SECONDS, record_timing=False).execute()
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            # Warnings and progress are of this machine.
            cell["outputs"] = [o for o in cell.outputs if o.get("name") != "stderr"]
        notebook.metadata["language_info"] = {"name": "python"}  # and not which version ran it
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
