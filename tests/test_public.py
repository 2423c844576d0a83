"""Names that users import: one table of them, errors that people catch, results that can be compared."""

from __future__ import annotations

import ast
import inspect
import pickle
from importlib.resources import files
from pathlib import Path

import pytest

import mnemoscope as ms

BASES = {
    "PromptError": ValueError,
    "TargetError": ValueError,
    "OptionError": ValueError,
    "FactsError": ValueError,
    "UnsupportedModelError": ValueError,
    "UnknownModelError": OSError,
    "ModelFileError": OSError,
    "OutputError": OSError,
    "WorkerError": RuntimeError,
}


def test_type_checkers_see_the_same_names_as_the_interpreter() -> None:
    tree = ast.parse(inspect.getsource(ms))
    imports = [
        (f"{node.module}", alias.name, alias.asname)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert all(name == again for _, name, again in imports)
    assert {name: module for module, name, _ in imports} == ms._PUBLIC


def test_every_public_name_is_there_and_listed() -> None:
    assert {"load", "Model", "Attribution", "OptionError"} <= set(dir(ms))
    assert set(ms.__all__) <= set(dir(ms))
    for name in ms.__all__:
        assert getattr(ms, name) is not None


@pytest.mark.parametrize("name", BASES)
def test_errors_are_caught_by_the_class_that_people_expect(name: str) -> None:
    error = getattr(ms, name)("what was wrong; what to do")
    assert isinstance(error, ms.MnemoscopeError)
    assert isinstance(error, BASES[name])
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "what was wrong; what to do"


def test_results_are_compared_and_hashed_by_identity(llama: ms.Model) -> None:
    one, other = (llama.attribute("w5 w17 w80", 40, top=3) for _ in range(2))
    for first, second in ((one, other), (one.query_neurons, other.query_neurons)):
        assert first != second
        assert len({first, second}) == 2


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(str(files("mnemoscope"))) / "py.typed").is_file()
