"""Fixtures: a tiny model behind the application, and a gate before its blocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

import mnemoscope as ms
from mnemoscope.web.app import make_app
from served import HERE, Gate, watched


@pytest.fixture
def gate(llama: ms.Model) -> Iterator[Gate]:
    """An open gate before every block of the tiny model."""
    with watched(llama) as gate:
        yield gate


@pytest.fixture
def client(llama: ms.Model) -> Iterator[TestClient]:
    """A client of an application with one tiny model, named `tiny`."""
    with TestClient(make_app({"tiny": llama}), base_url=HERE, raise_server_exceptions=False) as client:
        yield client
