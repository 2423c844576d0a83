"""Fixtures: tiny random models, the demo model, the reference scores."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

import mnemoscope as ms
from mnemoscope.model.families.registry import FAMILIES
from support import REPRESENTATIVES, built, demo_model, family_id, open_tiny, save_tiny

# Processor seconds that a test may take without a marker that says why, where `fixed_work` takes 0.1.
LONGEST = 10
# One prompt on each push, all nightly.
REFERENCE = [
    pytest.param(path, id=path.stem, marks=[] if path.stem == "tokyo" else pytest.mark.nightly)
    for path in sorted((Path(__file__).parent / "integration" / "reference").glob("*.json"))
]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what has the fixture `demo`; leave nightly tests out unless the marker expression names them.

    Files that start processes come first: they mostly wait, and at the end nothing would run beside them.
    """
    for item in items:
        if "demo" in getattr(item, "fixturenames", ()):
            item.add_marker("demo")
    if "nightly" not in config.option.markexpr:
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    waiting = {item.path for item in items if any(map(item.get_closest_marker, ("process", "ray")))}
    items.sort(key=lambda item: item.path not in waiting)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test that takes long and has no marker, so that the suite stays fast.

    Processor seconds of the worker and of the processes it waited for count. Machines differ, and one whose
    cores are shared is slower at times, so a test that takes too long is compared with fixed work done then.
    """
    before = sum(os.times()[:4])
    yield
    taken = sum(os.times()[:4]) - before
    marked = any(item.get_closest_marker(name) for name in ("demo", "browser", "process", "ray", "nightly"))
    if taken > LONGEST and not marked and taken > LONGEST * max(fixed_work() / 0.1, 1):
        pytest.fail(f"it took {taken:.0f} processor seconds; make it faster, or mark it (see pyproject.toml)")


def fixed_work() -> float:
    """Count to three million and return the processor seconds it took."""
    before = time.process_time()
    sum(number * number for number in range(3_000_000))
    return time.process_time() - before


@pytest.fixture(scope="session", params=REPRESENTATIVES, ids=family_id)
def tiny(request: pytest.FixtureRequest) -> ms.Model:
    """A tiny random model of each of a few families that differ in all that matters."""
    return open_tiny(request.param.build())


@pytest.fixture(scope="session")
def llama() -> ms.Model:
    """One tiny random model, for what does not depend on the family."""
    return open_tiny(next(f for f in FAMILIES if f.model_type == "llama").build())


@pytest.fixture(scope="session")
def demo() -> ms.Model:
    """The demo model, fetched and converted once on this machine, opened once in this process."""
    return demo_model()


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of one tiny random model, for commands whose claims do not depend on the model."""
    return str(save_tiny(built("llama"), tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="session", params=REFERENCE)
def oracle(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Reference scores of one prompt, written by `benchmarks/make_reference.py` from the demo model."""
    return json.loads(request.param.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_demo_without_its_marker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test that lacks the marker `demo` find no demo model, nor a place to make it in."""
    if not request.node.get_closest_marker("demo"):
        monkeypatch.setenv("MNEMOSCOPE_CACHE", f"{os.devnull}/a test of the demo model is marked demo")
