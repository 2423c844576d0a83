"""The recorder of a forward pass: every site alone gives what it gives beside the others."""

from __future__ import annotations

import pytest
import torch

import mnemoscope as ms
from mnemoscope.model.activations import Recorder

SITES = [f"{kind}_{site}" for kind in ("attention", "ffn") for site in ("input", "out", "scale", "constant")]
SITES += ["resid_pre", "head_factors", "embeddings", "final_state"]


def recorded(model: ms.Model, sites: set[str]) -> dict[str, list[torch.Tensor]]:
    recorder = Recorder(sites, lambda states: states.float())
    with torch.no_grad(), recorder.recording(model.language_model.structure):
        model.hf_model(torch.arange(3, 9)[None])
    return recorder.seen


@pytest.mark.parametrize("site", SITES)
def test_a_site_is_recorded_alone(llama: ms.Model, site: str) -> None:
    alone, every = recorded(llama, {site}), recorded(llama, set(SITES))
    assert alone.keys() == {site}
    assert len(alone[site]) == len(every[site]) >= 1
    assert all(torch.equal(one, other) for one, other in zip(alone[site], every[site], strict=True))
