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

from command_line import told
from support import built, word_tokenizer

pytestmark = pytest.mark.process
COMMIT = "c0ffee" + "0" * 34
# huggingface_hub reads the environment when it is imported, which takes long: one process opens all the
# sources of a line of stdin, or runs a command, and prints the results as a line.
OPEN_ALL = """if True:
    import json, sys
    import mnemoscope as ms
    from command_line import run
    def opened(source, revision):
        try:
            model = ms.load(source, revision=revision)
        except ms.MnemoscopeError as error:
            return {"error": type(error).__name__, "message": str(error)}
        return {"name": model.name, "revision": model.revision}
    for line in sys.stdin:
        given = json.loads(line)
        if isinstance(given, dict):
            done = run(*given.pop("command"), **given)
            found = [done.returncode, done.stdout, done.stderr]
        else:
            found = [opened(*each) for each in given]
        print(json.dumps(found), flush=True)
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


class Opener:
    """A process that opens models of the hub.

    Args:
        cache: its cache folder.
        environment: variables of its own.
    """

    def __init__(self, cache: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OPEN_ALL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "HF_HOME": str(cache), "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        )

    def __call__(self, given: Any) -> list[Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps(given)}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def served(repositories: Path) -> Iterator[ThreadingHTTPServer]:
    handler = type("ServedHub", (Hub,), {"root": repositories})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def opened(served: ThreadingHTTPServer, cache: Path) -> Iterator[Opener]:
    """A process to which the server is the hub."""
    opener = Opener(cache, HF_ENDPOINT=address(served))
    yield opener
    opener.close()


def address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_what_the_hub_answers_is_told_apart(opened: Opener) -> None:
    cases = {
        ("us/gated", None): "the hub's us/gated is gated and you may not read it yet; ask for access",
        ("us/nothing", None): "no hub repository that you may read has this name",
        ("us/whole", "v9"): "the hub's us/whole has no revision 'v9'",
        ("us/only-words", None): "has no config.json, so it is no model of transformers",
        ("us/pickled", None): "has no model.safetensors, and weights in pickles can run code",
        ("us/without-a-shard", None): "not there, first model-00002-of-00007.safetensors",
    }
    for (source, _), came, message in zip(cases, opened(list(cases)), cases.values(), strict=True):
        assert message in came.get("message", ""), (source, came)
        assert "\n" not in came["message"]


def test_a_gated_model_ends_the_command_with_one_line(opened: Opener) -> None:
    command = ["predict", "w5", "--model", "us/gated"]
    code, output, errors = opened({"command": command, "HF_TOKEN": "hf_of_somebody_without_access"})
    assert "`hf auth login`" in told(subprocess.CompletedProcess(command, code, output, errors))


def test_models_and_adapters_open_at_their_commit_and_again_offline(
    opened: Opener, served: ThreadingHTTPServer, cache: Path
) -> None:
    sources: list[tuple[str, str | None]] = [("us/whole", None), ("us/whole", COMMIT), ("us/adapter", None)]
    online = opened(sources)
    assert [came.get("revision", came) for came in online] == [COMMIT, COMMIT, f"{COMMIT} on {COMMIT}"]
    assert online[2]["name"] == "us/adapter on us/whole"
    forbidden = Opener(cache, HF_ENDPOINT=address(served), HF_HUB_OFFLINE="1")
    served.shutdown()
    served.server_close()
    for opener, reason in ((forbidden, "HF_HUB_OFFLINE forbids"), (opened, "the hub cannot be reached")):
        *again, other = opener([*sources, ("us/nothing", None)])
        assert [came.get("revision", came) for came in again] == [came["revision"] for came in online]
        assert other["error"] == "UnknownModelError"
        assert reason in other["message"]
        assert "\n" not in other["message"]
    forbidden.close()
