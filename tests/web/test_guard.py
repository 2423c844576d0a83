"""What is refused before anything runs, and what every answer says to the browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

import mnemoscope as ms
from mnemoscope.testing import words
from mnemoscope.web.app import make_app
from mnemoscope.web.security import HEADERS, Names
from served import HERE, PROMPT, Gate, watched

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def one_gate(llama: ms.Model) -> Iterator[Gate]:
    with watched(llama) as gate:
        yield gate


@pytest.fixture(scope="module")
def client(llama: ms.Model, one_gate: Gate) -> Iterator[TestClient]:
    """A client of one application for all tests here, as refusals leave it as it was."""
    with TestClient(make_app({"tiny": llama}), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def gate(one_gate: Gate) -> Gate:
    """An open gate before every block of the client's model, which has counted none."""
    one_gate.n_blocks = 0
    return one_gate


def refusal(answer: Any, status: int) -> str:
    """What an answer refuses with, which is always JSON with a reason and every header."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) <= {"error", "remedy"}
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "Traceback" not in answer.text
    return answer.json()["error"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "10.0.0.1:8765", ""],
)
def test_other_names_are_refused(client: TestClient, gate: Gate, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/static/page.js"), ("POST", "/api/predict")):
        answer = client.request(method, path, json={"prompt": PROMPT}, headers={"host": host})
        assert "another address" in refusal(answer, 403)
    assert gate.n_blocks == 0


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost", "LOCALHOST:8765", "[::1]:8765"])
def test_our_own_names_are_not(client: TestClient, host: str) -> None:
    assert client.get("/api/models", headers={"host": host}).status_code == 200


def test_open_to_the_network_any_address_but_no_other_name_will_do(llama: ms.Model) -> None:
    names = Names({"localhost", "lab"}, any_address=True)
    with TestClient(make_app({"tiny": llama}, names), base_url=HERE) as client:
        for host in ("10.0.0.1:8765", "[fd00::1]:8765", "lab:8765"):
            assert client.get("/api/models", headers={"host": host}).status_code == 200
        refusal(client.get("/api/models", headers={"host": "evil.example"}), 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://localhost:8765"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
def test_other_sites_are_refused(client: TestClient, gate: Gate, headers: dict[str, str]) -> None:
    answer = client.post("/api/predict", json={"prompt": PROMPT}, headers=headers)
    assert "other sites" in refusal(answer, 403)
    assert gate.n_blocks == 0


def test_our_own_page_and_links_to_it_are_not(client: TestClient) -> None:
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    assert client.post("/api/predict", json={"prompt": PROMPT}, headers=own).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/", headers=link).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_body_must_be_json(client: TestClient, gate: Gate, kind: str) -> None:
    body = json.dumps({"prompt": PROMPT})
    assert "JSON" in refusal(client.post("/api/predict", content=body, headers={"content-type": kind}), 415)
    assert gate.n_blocks == 0


def test_large_bodies_are_refused_while_they_are_read(client: TestClient, gate: Gate) -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        for _ in range(10_000):
            read += 1
            yield b" " * 1024

    said = {**JSON, "content-length": str(10**9)}
    assert "65,536 bytes" in refusal(client.post("/api/predict", content=b"{}", headers=said), 413)
    assert "65,536 bytes" in refusal(client.post("/api/predict", content=endless(), headers=JSON), 413)
    assert gate.n_blocks == 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "prompt: Field required"),
        ({"prompt": ""}, "type a prompt first"),
        ({"prompt": "\0"}, "prompt: the text holds a null character"),
        ({"prompt": 5}, "prompt: Input should be a valid string"),
        ({"prompt": PROMPT * 2000}, "prompt: String should have at most 20000 characters"),
        ({"prompt": PROMPT, "top": 0}, "top: Input should be greater than or equal to 1"),
        ({"prompt": PROMPT, "top": 201}, "top: Input should be less than or equal to 200"),
        ({"prompt": PROMPT, "top": "5"}, "top: Input should be a valid integer"),
        ({"prompt": PROMPT, "top": True}, "top: Input should be a valid integer"),
        ({"prompt": PROMPT, "out": "/etc/passwd"}, "out: Extra inputs are not permitted"),
        ({"prompt": PROMPT, "<script>\u202e": 1}, "<script>\\u202e: Extra inputs are not permitted"),
    ],
)
def test_fields_are_checked_before_anything_runs(
    client: TestClient, gate: Gate, fields: dict[str, Any], told: str
) -> None:
    assert told in refusal(client.post("/api/predict", json=fields), 422)
    assert gate.n_blocks == 0


def test_what_may_be_of_several_types_is_told_once(client: TestClient) -> None:
    told = refusal(client.post("/api/attribute", json={"prompt": PROMPT, "target": True}), 422)
    one = "a token's text (1 to 200 characters, none of them null) or its id"
    assert told == f"target: give {one}, or a list of 1 to 20 of these"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("attribute", {"target": None, "against": ["\0"]}),
        ("attribute", {"target": []}),
        ("attribute", {"target": [" w4"] * 21}),
        ("attribute", {"target": -1}),
        ("attribute", {"target": " w4" * 100}),
        ("attribute", {"target": True}),
        ("attribute", {"query": "no"}),
        ("attribute", {"neurons": "all"}),
        ("compare", {"prompt_a": "w4", "prompt_b": ""}),
        ("compare", {"prompt_a": "w4", "prompt_b": "w5", "top": 201}),
        ("examples", {"neurons": []}),
        ("examples", {"neurons": [{"part": "FFNNeuron", "layer": 1, "neuron": 1}] * 21}),
        ("examples", {"neurons": [{"part": "Head", "layer": 1, "head": 1}]}),
        ("examples", {"neurons": [{"part": "FFNNeuron", "layer": 1, "neuron": 1}], "top": 21}),
        ("examples", {"neurons": [{"part": "FFNNeuron", "layer": 1, "neuron": 1}], "corpus": "/etc/hosts"}),
        ("export", {}),
        ("export", {"format": "exe"}),
        ("export", {"format": "../../x"}),
        ("ablate", {}),
        ("ablate", {"parts": []}),
        ("ablate", {"parts": [{"part": "Head", "layer": 1}]}),
        ("ablate", {"parts": [{"part": "Everything", "layer": 1}]}),
        ("ablate", {"parts": [{"part": "Head", "layer": 1, "head": 0}] * 501}),
        ("ablate", {"parts": [{"part": "Head", "layer": 1, "head": 0}], "factor": 4.1}),
        ("ablate", {"parts": [{"part": "Head", "layer": 1, "head": 0}], "factor": -1}),
        ("ablate", {"parts": [{"part": "Head", "layer": 1, "head": 0}], "seeds": 11}),
        ("links", {"depth": 5}),
        ("head", {"layer": -1, "head": 0}),
        ("methods", {"methods": []}),
        ("methods", {"top": 51}),
    ],
)
def test_every_field_has_bounds(client: TestClient, gate: Gate, path: str, fields: dict[str, Any]) -> None:
    refusal(client.post(f"/api/{path}", json={"prompt": PROMPT, **fields}), 422)
    assert gate.n_blocks == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 60_000,
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "a", "top": 1e999}',
        b'{"prompt": "a", "top": ' + b"9" * 5000 + b"}",
        b'"text"',
        b"null",
        b'{"prompt": "half \\ud800"}',
    ],
)
def test_what_is_no_good_json_is_refused(client: TestClient, gate: Gate, body: bytes) -> None:
    answer = client.post("/api/predict", content=body, headers=JSON)
    assert answer.status_code in (400, 422)
    refusal(answer, answer.status_code)
    assert gate.n_blocks == 0


def test_nan_is_no_factor(client: TestClient, gate: Gate) -> None:
    part = '{"part": "Head", "layer": 1, "head": 0}'
    for factor in ("NaN", "Infinity"):
        body = f'{{"prompt": "{PROMPT}", "parts": [{part}], "factor": {factor}}}'
        refusal(client.post("/api/ablate", content=body, headers=JSON), 422)
    assert gate.n_blocks == 0


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        ("predict", {"prompt": words(*[5] * 65)}, "the prompt has 65 tokens but the model reads at most 64"),
        ("predict", {"prompt": "w5 " * 6000}, "the prompt has 6000 tokens"),
        ("predict", {"prompt": " "}, "the prompt has no tokens"),
        ("compare", {"prompt_a": PROMPT, "prompt_b": "w5 " * 6000}, "the prompt has 6000 tokens"),
        ("compare", {"prompt_a": PROMPT, "prompt_b": PROMPT, "target_b": " w1 w2"}, "w1 w2"),
        ("predict", {"prompt": PROMPT, "model": "/etc/passwd"}, "no model of that name is open"),
        ("predict", {"prompt": PROMPT, "model": "gpt2"}, "no model of that name is open"),
        ("attribute", {"prompt": PROMPT, "target": "nothing"}, "is not in the model's vocabulary"),
        ("attribute", {"prompt": PROMPT, "target": 97}, "the target id 97 is not in the vocabulary"),
        ("attribute", {"prompt": PROMPT, "target": " w4" * 17}, "the target has 17 tokens"),
        ("neuron", {"layer": 3, "neuron": 0}, "layer goes from 0 to 2"),
        (
            "examples",
            {"neurons": [{"part": "FFNNeuron", "layer": 0, "neuron": 999}]},
            "neuron goes from 0 to 47",
        ),
        ("head", {"prompt": PROMPT, "layer": 0, "head": 9}, "head goes from 0 to 3"),
        ("methods", {"prompt": PROMPT, "methods": ["os:system"]}, "there is no method 'os:system'"),
        (
            "ablate",
            {"prompt": PROMPT, "parts": [{"part": "FFNNeuron", "layer": 0, "neuron": 999}]},
            "neuron goes from 0 to 47",
        ),
    ],
)
def test_mistakes_are_told_in_the_librarys_words(
    client: TestClient, gate: Gate, path: str, fields: dict[str, Any], told: str
) -> None:
    assert told in refusal(client.post(f"/api/{path}", json=fields), 400)
    if path in ("predict", "attribute"):
        assert gate.n_blocks == 0


def test_more_tokens_than_the_server_takes_are_refused(
    client: TestClient, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnemoscope.web.handlers.MOST_PROMPT_TOKENS", 8)
    long = {"prompt": words(*range(4, 13))}
    calls = dict.fromkeys(("predict", "attribute", "links", "methods"), long)
    for path, fields in {**calls, "compare": {"prompt_a": "w4", "prompt_b": long["prompt"]}}.items():
        answer = client.post(f"/api/{path}", json=fields)
        assert "the prompt has 9 tokens and this server takes 8" in refusal(answer, 400)
    assert gate.n_blocks == 0


@pytest.mark.parametrize(
    "prompt", ["<script>alert(1)</script> w5", "\u202ew5\u2066 w6", "w5\x1b[31m", "é\r\n👩‍👩‍👧"]
)
def test_a_prompt_of_markup_is_a_prompt(client: TestClient, prompt: str) -> None:
    answer = client.post("/api/predict", json={"prompt": prompt})
    assert answer.status_code == 200
    assert answer.json()["prompt"] == prompt


def test_markup_of_a_prompt_is_text_in_an_exported_page(client: TestClient) -> None:
    asked = {"prompt": "<script>alert(1)</script> w5", "format": "html", "top": 1, "query": False}
    page = client.post("/api/export", json=asked)
    assert page.status_code == 200
    assert "<script>alert" not in page.text


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/api/models", "/api/openapi.json", "/nowhere"])
def test_every_answer_is_shut_in(client: TestClient, path: str) -> None:
    answer = client.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/docs"],
)
def test_no_other_file_is_served(client: TestClient, path: str) -> None:
    refusal(client.get(path), 404)


def test_a_fault_outside_of_calls_is_told_in_the_same_way(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mnemoscope.web.server.describe", lambda _: 1 / 0)
    assert "ZeroDivisionError" in refusal(client.get("/api/models"), 500)
    assert "division by zero" in caplog.text


def test_a_fault_is_told_without_its_inside(
    client: TestClient, llama: ms.Model, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    handle = llama.language_model.structure.blocks[1].module.register_forward_pre_hook(fail)
    try:
        answer = client.post("/api/predict", json={"prompt": f"{PROMPT} w7"})  # of which no run is kept
    finally:
        handle.remove()
    assert "RuntimeError" in refusal(answer, 500)
    assert "secret" not in answer.text
    assert "secret" in caplog.text
