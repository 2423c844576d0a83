"""What `mnemoscope ablate --query` shows: the ablation, then what became of the coefficients."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

import mnemoscope as ms
from mnemoscope.report.terminal.ablation import render_query_ablation
from support import words

COEFFICIENTS = [
    ("attention", 23, 4, 51, 3, None, -3.47, -1.0, -0.4, -3.8, 0.41),
    ("attention", 9, 6, 56, 0, None, 2.0, 2.0, 2.0, 2.0, 0.0),
    ("ffn", 24, None, None, 4, 1005, -31.6, -32.2, 5.0, -26.9, 2.4),
]
COLUMNS = ["kind", "layer", "head", "dim", "position", "neuron", "before", "predicted", "after"]


@pytest.fixture(scope="module")
def found(llama: ms.Model) -> ms.QueryAblation:
    result = llama.attribute(words(3, 17, 44, 8, 60), 40, top=5, effects=False, query=False)
    made = llama.compare_query_ablation(result, top=5, seeds=2)
    table = pd.DataFrame(
        COEFFICIENTS, columns=[*COLUMNS, "control_mean", "control_standard_deviation"]
    ).assign(direct=1.0)
    nullable = dict.fromkeys(("head", "dim", "neuron"), "Int64")
    return replace(made, coefficients=table.astype(nullable))


def shown(found: ms.QueryAblation, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        render_query_ablation(found, console)
    return capture.get()


def test_shows_the_target_and_the_coefficients_that_changed_most(found: ms.QueryAblation) -> None:
    text = shown(found, 100)
    assert "5 FFN neurons  factor 0 at all positions" in text
    coefficients = text.split("Coefficients  3 of 3 value neurons")[1]
    assert re.search(r"\n24.1005 +FFN +−31.600 +−32.200 +\+5.000 +−26.900 ± 2.400 +4 ", coefficients)
    assert re.search(r"\n23.4.51 +attention +−3.470 +−1.000 +−0.400 +−3.800 ± 0.410 +3 ", coefficients)
    assert re.search(r"\n9.6.56 +attention +\+2.000 +\+2.000 +\+2.000 +\+2.000 +0 ", coefficients)
    names = re.findall(r"\n(\d+\.\d+(?:\.\d+)?) ", coefficients)
    assert names == ["24.1005", "23.4.51", "9.6.56"]


def test_shows_how_well_the_change_was_predicted(found: ms.QueryAblation) -> None:
    text = shown(found, 100).split("Change of the coefficients")[1]
    assert re.search(r"\n2 attention +−35.6 % +−44.2 % +\+4.8 % +\+1.00 +\+1.00", text)
    assert re.search(r"\n1 FFN +\+1.9 % +−115.8 % +−14.9 % +n/a +n/a", text)
    assert re.search(r"\n3 in all ", text)


@pytest.mark.parametrize("width", [80, 100])
def test_fits_the_terminal(found: ms.QueryAblation, width: int) -> None:
    text = shown(found, width)
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text.split("Coefficients")[1]
