"""A user's script calls every public name and runs; pyright knows the type of every call (`make lint`)."""

from __future__ import annotations

import ast
from pathlib import Path

import mnemoscope as ms
import user_script

SCRIPT = Path(user_script.__file__)
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
