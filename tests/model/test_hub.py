"""Models on the hub, asked of a small server here that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import peft
import pytest

from command_line import run_apart, told
from support import built, word_tokenizer

pytestmark = pytest.mark.process
COMMIT = "c0ffee" + "0" * 34
# Opens each source in one process, as importing takes long, and prints what came of it.
OPEN_ALL = """if True:
    import json, sys
    import mnemoscope as ms
    for source, revision in json.loads(sys.argv[1]):
        try:
            model = ms.load(source, revision=revision)
            came = {"name": model.name, "revision": model.revision}
        except ms.MnemoscopeError as error:
            came = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(came))
"""


class Hub(BaseHTTPRequestHandler):
    """Serves folders as repositories: `/owner/name/resolve/revision/file`."""

    root: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        api = path.startswith("/api/models/")
        owner, name, verb, revision, *rest = [*path.removeprefix("/api/models").split("/")[1:], "", ""]
        repository = self.root / owner / name
        if not repository.is_dir():
            return self.refuse(404, "RepoNotFound")
        if revision not in ("", "main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if api and verb in ("", "revision"):
            return self.give(json.dumps({"id": f"{owner}/{name}", "sha": COMMIT}).encode(), body)
        if name == "gated":
            return self.refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        file = repository / "/".join(rest).rstrip("/")
        if api or not file.is_file():
            return self.refuse(404, "EntryNotFound")
        return self.give(file.read_bytes(), body)

    def give(self, content: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Not on the test's stderr."""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    whole = root / "us" / "whole"
    model = built("llama")
    model.save_pretrained(whole, max_shard_size="20KB")
    word_tokenizer().save_pretrained(whole)
    lora = peft.LoraConfig(target_modules=["down_proj"], init_lora_weights=False)
    adapted: Any = peft.get_peft_model(model, lora)
    adapted.peft_config["default"].base_model_name_or_path = "us/whole"
    adapted.save_pretrained(root / "us" / "adapter", save_embedding_layers=False)
    shutil.copytree(whole, root / "us" / "without-a-shard")
    (root / "us" / "without-a-shard" / "model-00002-of-00007.safetensors").unlink()
    shutil.copytree(whole, root / "us" / "pickled", ignore=shutil.ignore_patterns("*.safetensors*"))
    (root / "us" / "pickled" / "pytorch_model.bin").write_bytes(b"")
    (root / "us" / "only-words").mkdir()
    (root / "us" / "gated").mkdir()
    return root


@pytest.fixture(scope="module")
def hub(repositories: Path) -> Iterator[str]:
    handler = type("ServedHub", (Hub,), {"root": repositories})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def opened(sources: list[tuple[str, str | None]], cache: Path, **environment: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, json.dumps(sources)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "HF_HOME": str(cache), **environment},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_the_hub_answers_is_told_apart(hub: str, tmp_path: Path) -> None:
    cases = {
        ("us/gated", None): "the hub's us/gated is gated and you may not read it yet; ask for access",
        ("us/nothing", None): "no hub repository that you may read has this name",
        ("us/whole", "v9"): "the hub's us/whole has no revision 'v9'",
        ("us/only-words", None): "has no config.json, so it is no model of transformers",
        ("us/pickled", None): "has no model.safetensors, and weights in pickles can run code",
        ("us/without-a-shard", None): "not there, first model-00002-of-00007.safetensors",
    }
    for (source, _), came, message in zip(
        cases, opened(list(cases), tmp_path, HF_ENDPOINT=hub), cases.values(), strict=True
    ):
        assert message in came.get("message", ""), (source, came)
        assert "\n" not in came["message"]


def test_models_and_adapters_open_at_their_commit_and_again_offline(hub: str, tmp_path: Path) -> None:
    sources: list[tuple[str, str | None]] = [("us/whole", None), ("us/whole", COMMIT), ("us/adapter", None)]
    online = opened(sources, tmp_path, HF_ENDPOINT=hub)
    assert [came.get("revision", came) for came in online] == [COMMIT, COMMIT, f"{COMMIT} on {COMMIT}"]
    assert online[2]["name"] == "us/adapter on us/whole"
    nobody = "http://127.0.0.1:1"
    for offline in ({"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": nobody}):
        *again, other = opened([*sources, ("us/pickled", None)], tmp_path, **offline)
        assert [came.get("revision", came) for came in again] == [came["revision"] for came in online]
        assert other["error"] == "UnknownModelError"
        reason = "HF_HUB_OFFLINE forbids" if "HF_HUB_OFFLINE" in offline else "the hub cannot be reached"
        assert reason in other["message"]
        assert "\n" not in other["message"]


def test_a_gated_model_ends_the_command_with_one_line(hub: str, tmp_path: Path) -> None:
    there = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_of_somebody_without_access"}
    done = run_apart("predict", "w5", "--model", "us/gated", **there)
    assert "`hf auth login`" in told(done)
