"""Requests drawn from the document of the API, good and bad: no failure, no answer that it does not tell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

import mnemoscope as ms
from mnemoscope.web.app import make_app
from mnemoscope.web.queue import Limits
from served import live

N_EXAMPLES = 2
SECONDS = 60

# Charts are asked for as attributions are, and take seconds to draw.
document = schemathesis.openapi.from_dict(make_app({}).openapi()).exclude(path="/api/charts")


@pytest.fixture(scope="module")
def address(llama: ms.Model) -> Iterator[str]:
    """Where a real server answers."""
    with live(llama, Limits(seconds=SECONDS)) as address:
        yield address


@document.parametrize()
@settings(max_examples=N_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_answers_are_as_the_document_says(case: schemathesis.Case, address: str) -> None:
    if isinstance(case.body, dict) and case.body.get("format") == "html":
        case.body["format"] = "json"  # a page takes seconds to draw too
    # Good data may be of a token or neuron that this model does not have.
    case.call_and_validate(address, excluded_checks=[positive_data_acceptance], timeout=SECONDS)
