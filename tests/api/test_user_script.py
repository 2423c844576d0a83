"""A user's script calls every public name, runs, and has a known type at every call."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mnemoscope as ms
import user_script

SCRIPT = Path(user_script.__file__)
ROOT = Path(__file__).parents[2]
# Types of results that no call of a user names, and errors that the script does not meet.
UNUSED = {"__version__", "Family", "Sizes"} | {name for name in ms.__all__ if name.endswith("Error")}


def test_the_script_uses_every_public_name_and_method() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    methods = {name for owner in (ms.Model, ms.Run) for name in dir(owner) if not name.startswith("_")}
    assert not (set(ms.__all__) - UNUSED | methods) - used


def test_the_script_runs(llama_folder: str, tmp_path: Path) -> None:
    model = user_script.open_models(Path(llama_folder))
    user_script.predict(model)
    result = user_script.attribute(model, tmp_path)
    user_script.explain(model, result)
    user_script.intervene(model, result, tmp_path)
    user_script.circuits(model, tmp_path)
    assert user_script.refused(model) == "top is 0; give 1 or more"
    model.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    user_script.chat(model)


@pytest.mark.process
def test_a_type_checker_knows_the_type_of_every_call(tmp_path: Path) -> None:
    rules = ("UnknownVariableType", "UnknownMemberType", "UnknownArgumentType", "UnknownParameterType")
    config = {
        "include": [SCRIPT.name],
        "extraPaths": [str(ROOT / "src")],
        "typeCheckingMode": "standard",
        "strictListInference": True,
        **{f"report{rule}": "error" for rule in rules},
    }
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--pythonpath",
        sys.executable,
        "--project",
        str(tmp_path),
        "--outputjson",
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    assert not [each["message"] for each in report["generalDiagnostics"]]
