"""Requests drawn from the document of the API: no failure, no answer that it does not tell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

import mnemoscope as ms
from mnemoscope.web.app import make_app
from mnemoscope.web.queue import Limits
from served import live

# Charts are asked for as attributions are, and take seconds to draw.
SLOW = "/api/charts"
SECONDS = 60


@pytest.fixture(scope="module")
def address(llama: ms.Model) -> Iterator[str]:
    """Where a real server answers."""
    with live(llama, Limits(seconds=SECONDS)) as address:
        yield address


# `parametrize` of Schemathesis would make some 2,000 requests when tests are collected, in every worker.
@pytest.mark.parametrize("path", sorted(set(make_app({}).openapi()["paths"]) - {SLOW}))
def test_answers_are_as_the_document_says(path: str, address: str) -> None:
    document = schemathesis.openapi.from_dict(make_app({}).openapi()).include(path=path)
    for operation in (each.ok() for each in document.get_all_operations()):

        @settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            if isinstance(case.body, dict) and case.body.get("format") == "html":
                case.body["format"] = "json"  # a page takes seconds to draw too
            # Good data may be of a token or neuron that this model does not have.
            case.call_and_validate(address, excluded_checks=[positive_data_acceptance], timeout=SECONDS)

        check()


@pytest.mark.nightly  # on each push test_guard has mistakes of every kind
@pytest.mark.process
def test_answers_to_mistakes_are_as_the_document_says(address: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}api/openapi.json", "--no-color"]
    command += [f"--exclude-path={SLOW}", "--exclude-checks=positive_data_acceptance"]
    command += ["--phases=coverage,fuzzing", "--max-examples=2", "--generation-deterministic"]
    command += [f"--request-timeout={SECONDS}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout
