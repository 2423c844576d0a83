"""Data sets on the hub, asked of a small server here that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mnemoscope.errors import FactsError
from mnemoscope.study.formats import read_facts

COMMIT = "c0ffee" + "0" * 34
ROW = {"prompt": "The capital of France is", "target": "Paris", "relation": "capital"}
TRIVIA = {
    "question": "Where?",
    "answer": {"value": "Rome", "aliases": ["Roma"]},
    "entity_pages": {"text": ["x"]},
}
CARD = """---
configs:
- config_name: plain
  data_files: facts.jsonl
- config_name: rc
  data_files:
  - split: train
    path: train.jsonl
  - split: test
    path: test.jsonl
---
"""
# Reads each source in one process, as importing takes long, and prints what came of it.
READ_ALL = """if True:
    import json, sys
    import mnemoscope as ms
    from mnemoscope.study.formats import read_facts
    for source in sys.argv[1:]:
        if source == "offline":  # as HF_HUB_OFFLINE does before these are imported
            import datasets, huggingface_hub
            datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
            continue
        try:
            found = read_facts(source, question_template="{question}")
            came = {"facts": [[fact.where, fact.prompt, fact.target, *fact.aliases] for fact in found.facts],
                    "bad": [bad.where for bad in found.bad_lines]}
        except ms.MnemoscopeError as error:
            came = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(came))
"""


class Hub(BaseHTTPRequestHandler):
    """Serves folders as data sets."""

    root: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[0] == "api"
        kind, owner, name, verb, revision, *rest = [*parts[api:], "", "", "", "", ""]
        folder = self.root / owner / name
        if kind != "datasets" or not folder.is_dir():
            return self.refuse("RepoNotFound")
        if revision not in ("", "main", COMMIT):
            return self.refuse("RevisionNotFound")
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        if api and verb in ("", "revision"):
            siblings = [{"rfilename": path.name} for path in files]
            return self.give(json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}), body)
        if api and verb in ("tree", "paths-info") and not any(rest):
            tree = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _digest(path)}
                for path in files
            ]
            return self.give(json.dumps(tree), body)
        file = folder / "/".join(rest).rstrip("/")
        return self.refuse("EntryNotFound") if api or file not in files else self.give(file.read_text(), body)

    def give(self, text: str, body: bool) -> None:
        content = text.encode()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Not on the test's stderr."""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:40]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "hub"
    plain, several, code = (root / "us" / name for name in ("plain", "several", "code"))
    for folder in (plain, several, code):
        folder.mkdir(parents=True)
    lines = "\n".join(map(json.dumps, [ROW, {**ROW, "target": None}]))
    (plain / "train.jsonl").write_text(lines)
    (several / "README.md").write_text(CARD)
    (several / "facts.jsonl").write_text(lines)
    (several / "train.jsonl").write_text(json.dumps(TRIVIA))
    (several / "test.jsonl").write_text(json.dumps({**TRIVIA, "question": "Who?"}))
    (code / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    handler = type("ServedHub", (Hub,), {"root": root})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def came_of(sources: list[str], folder: Path, hub: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, *sources],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "HF_HOME": str(folder / "cache"), "HF_ENDPOINT": hub},
        timeout=300,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return list(map(json.loads, done.stdout.splitlines()))


@pytest.mark.process
def test_data_sets_are_read_by_config_and_split(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    trivia = {"facts": [["row 1", "Where?", "Rome", "Roma"]], "bad": []}
    plain = {"facts": [["row 1", ROW["prompt"], "Paris"]], "bad": ["row 2"]}
    expected = {
        "hub:us/plain": plain,
        f"hub:us/plain@{COMMIT}": plain,
        "hub:us/several:plain": plain,
        "hub:us/several:rc:train": trivia,
        "hub:us/several:rc": "has the splits train, test; name one, as in hub:us/several:rc:train",
        "hub:us/several": "Config name is missing",
        "hub:us/several:rc:dev": "dev",
        "hub:us/nothing": "cannot read hub:us/nothing: ",
        "hub:us/code": "cannot read hub:us/code: ",
    }
    # The last comes from the cache, where the hub is not asked.
    *online, again = came_of([*expected, "offline", "hub:us/plain"], tmp_path, hub)
    for source, came in zip(expected, online, strict=True):
        if isinstance(expected[source], dict):
            assert came == expected[source], source
        else:
            assert came.get("error") == "FactsError", (source, came)
            assert expected[source] in came["message"]
            assert "\n" not in came["message"]
    assert not (tmp_path / "ran").exists()
    assert again == plain


@pytest.mark.parametrize("source", ["hub:facts", "hub:", "hub:a/b/c", "hub:a/b:c:d:e"])
def test_a_source_that_names_no_data_set_is_refused(source: str) -> None:
    with pytest.raises(FactsError, match=r"names no data set; write hub:OWNER/NAME\[@REVISION\]"):
        read_facts(source)


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FactsError, match=r"pip install '\.\[study\]'"):
        read_facts("hub:us/plain")


def test_a_folder_of_the_same_name_is_not_taken_for_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "us" / "plain").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FactsError, match="cannot be told from the folder us/plain here"):
        read_facts("hub:us/plain")
