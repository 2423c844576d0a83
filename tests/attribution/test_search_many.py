"""Searches of many predictions find what a search of each alone finds."""

from __future__ import annotations

import pytest
import torch

import mnemoscope as ms
from mnemoscope.api.requests import TargetSpec, predictions
from mnemoscope.attribution.grids import ProjectedColumns
from mnemoscope.attribution.search import NeuronSearch, Pool, search, settle_searches
from mnemoscope.model.tokens import encode_prompt
from support import words


@pytest.mark.parametrize("n_rows", [1, 40, None])
def test_groups_of_any_size_give_the_best_of_each(llama: ms.Model, n_rows: int | None) -> None:
    language_model = llama.language_model
    projected = ProjectedColumns(language_model.structure.readout, 0)
    projected.n_rows = projected.n_rows if n_rows is None else n_rows
    prompts = [(5, 17, 80), (9,), (61, 5, 5, 8), (44, 3)]
    specs = [TargetSpec(encode_prompt(language_model, words(*ids)), (7,)) for ids in prompts]
    found = list(predictions(language_model, specs, projected=projected))
    kinds = [(prediction.shared.ffn_neurons, prediction.shared.attention_neurons) for prediction in found]
    searches = [
        [NeuronSearch(prediction, grid, Pool(9, 1, 0, 1)) for grid in grids]
        for prediction, grids in zip(found, kinds, strict=True)
    ]
    settle_searches(searches, projected)
    for prediction, own in zip(found, searches, strict=True):
        for each in own:
            alone = Pool(9, 1, 0, 1)
            fine = prediction.fine
            search(each.grid, [alone], prediction.coarse, lambda fine=fine: fine, prediction.scorer())
            assert not len(each.pool.unscored)
            assert torch.equal(each.pool.best()[0], alone.best()[0])
            torch.testing.assert_close(each.pool.best()[1], alone.best()[1])
