"""A tiny model in a folder, and the study of it that nothing disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies import driver, save_tiny, tables


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a study that one process ran from beginning to end."""
    folder = tmp_path_factory.mktemp("unbroken") / "study"
    with driver(model, folder) as process:
        process.join()
    assert process.exitcode == 0
    return tables(folder)
