"""The picture of the layers is the one that its script draws, and no layer imports a higher one."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

LAYERS = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "make_layers.py"))


def test_the_picture_is_what_the_script_draws() -> None:
    stored = LAYERS["PICTURE"].read_text(encoding="utf-8")
    assert stored == LAYERS["picture"](), "run `python docs/make_layers.py`"


def test_no_layer_imports_a_higher_one() -> None:
    order = LAYERS["layers"]()
    imports = LAYERS["imports"](LAYERS["ROOT"] / "src" / "mnemoscope")
    assert len(imports) > len(order)
    assert not [(a, b) for a, b in imports if a in order and b in order and order.index(a) > order.index(b)]


@pytest.mark.parametrize(
    "line", ["import {}", "from {} import part", "from mnemoscope import report", "def f():\n    import {}"]
)
def test_imports_of_every_form_are_drawn(tmp_path: Path, line: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "part.py").write_text(line.format("mnemoscope.report.text"))
    assert LAYERS["imports"](tmp_path) == {("model", "report")}
