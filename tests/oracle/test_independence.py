"""The oracle shares no code with the package, and refuses a model whose parts it gets wrong."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from oracle import places
from oracle.scores import Oracle
from support import built

MODULES = [path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")]


def imported(path: Path) -> set[str]:
    """Collect the packages that a module imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_the_oracle_imports_nothing_of_the_package() -> None:
    assert len(MODULES) >= 7
    for path in MODULES:
        assert imported(path) <= {
            *("__future__", "ast", "collections", "contextlib", "copy", "dataclasses", "functools"),
            *("itertools", "typing", "pandas", "torch", "oracle"),
        }, path


@pytest.mark.parametrize(
    ("family", "broken", "message"),
    [
        ("granite", "residual_multiplier", "attention and FFN do not sum"),
        ("granite", "logit_scale", "the readout is not the model's own"),
        ("gemma2", "soft_cap", "the readout is not the model's own"),
    ],
)
def test_a_wrong_rule_is_refused(
    family: str, broken: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, broken, lambda model: 1.5)
    with pytest.raises(AssertionError, match=message):
        Oracle(built(family), (5, 17, 80), [40])


def test_a_post_norm_left_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "post_norms_of", lambda model, block: (None, None))
    with pytest.raises(AssertionError, match="attention and FFN do not sum"):
        Oracle(built("olmo2"), (5, 17, 80), [40])
