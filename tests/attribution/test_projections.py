"""Columns kept projected have the right values, whatever was asked for before and had to make room."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

import mnemoscope as ms
from mnemoscope.attribution.grids import MAX_ROWS, ProjectedColumns
from mnemoscope.model.families.registry import FAMILIES
from support import open_tiny

D_FF = 200


@pytest.fixture(scope="module")
def wide() -> ms.Model:
    """A tiny model with more columns than the least room holds."""
    llama = next(family for family in FAMILIES if family.model_type == "llama")
    return open_tiny(replace(llama, config={**llama.config, "intermediate_size": D_FF}).build())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 2 * MAX_ROWS), min_size=1, max_size=6))
def test_values_are_those_of_the_columns(wide: ms.Model, seed: int, sizes: list[int]) -> None:
    grid = wide.method_input("w5 w6", 7).grid
    readout = wide.language_model.structure.readout
    projected = ProjectedColumns(readout, 0)
    n_columns = grid.n_layers * grid.n_columns
    assert n_columns > projected.n_rows == 2 * MAX_ROWS
    generator = torch.Generator().manual_seed(seed)
    for size in sizes:
        columns = torch.randperm(n_columns, generator=generator)[:size].sort().values
        places = projected.places(grid, columns)
        assert len(set(places)) == size
        folded = (
            readout.norm.centre(grid.gather_columns(columns // D_FF, columns % D_FF)) * readout.norm.weight
        )
        assert torch.allclose(projected.values[places], folded @ readout.unembedding.T, atol=1e-5)
