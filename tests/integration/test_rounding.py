"""Intervals, sums and scores of the demo model against exact arithmetic, to the tolerance that is stated.

The reference takes the recorded states, coefficients and weights and computes FFN neurons' log-probability
increases in float64, with code of its own. Some neurons of one prompt are compared on each push, all of
three nightly.
"""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.model.activations import ActivationCache

pytestmark = [pytest.mark.demo, pytest.mark.timeout(1800)]
PROMPTS = (
    ("The capital of Japan is the city of", " Tokyo"),
    ("The capital of Germany is the city of", " Berlin"),
    ("The opposite of hot is", " cold"),
)
ASKED = (
    pytest.param(*PROMPTS[0], 197, id="Tokyo, every 197th neuron"),
    *(
        pytest.param(*asked, 1, marks=pytest.mark.nightly, id=f"{asked[1].strip()}, every neuron")
        for asked in PROMPTS
    ),
)


def true_scores(
    model: ms.Model, activations: ActivationCache, target: int, layer: Tensor, neuron: Tensor
) -> Tensor:
    """Log-probability increase of FFN neurons sorted by layer, in float64, `[n]`."""
    transformer = model.language_model.model
    head = transformer.lm_head.weight.detach().double()
    norm, final = transformer.model.norm, activations.final_state.double()
    gain = norm.weight.detach().double() / (final.pow(2).mean() + norm.variance_epsilon).sqrt()
    scores = []
    for here in layer.unique().tolist():
        base = (activations.resid_pre[here] + activations.attention_out[here]).double()
        log_p = torch.log_softmax((base * gain) @ head.T, dim=-1)
        down = transformer.model.layers[here].mlp.down_proj.weight.detach().double()
        for some in neuron[layer == here].split(256):
            m = activations.coefficients[here, some].double()
            added = m[:, None] * ((down[:, some].T * gain) @ head.T)
            scores.append(added[:, target] - (added + log_p).logsumexp(-1))
    return torch.cat(scores)


def indices(table: pd.DataFrame) -> tuple[Tensor, Tensor]:
    return torch.tensor(table["layer"].to_numpy()), torch.tensor(table["neuron"].to_numpy())


@pytest.mark.parametrize(("prompt", "target", "stride"), ASKED)
def test_intervals_and_lists_hold_the_true_scores(
    demo: ms.Model, prompt: str, target: str, stride: int
) -> None:
    result = demo.attribute(prompt, target, top=50, neurons="bounds", effects=False, query=False)
    (activations,) = demo.language_model.capture([result.token_ids])
    every = result.ffn_scores.sort_values(["layer", "neuron"])
    table = every.iloc[::stride]
    true = true_scores(demo, activations, result.target.id, *indices(table)).numpy()
    assert ((table["lower"] <= true) & (true <= table["upper"])).all()
    # Not so wide that they would hold anything: half of them to a thousandth of a nat.
    assert (table["upper"] - table["lower"]).median() < 1e-3
    if stride == 1:
        lower, upper = result.sum_of_scores("ffn")
        assert lower <= true.sum() <= upper
    assert result.tolerance is not None
    assert result.tolerance < 2e-3
    for name, sign in (("ffn_neurons", 1), ("suppressing_ffn_neurons", -1)):
        listed = getattr(result, name).sort_values(["layer", "neuron"])
        exact = true_scores(demo, activations, result.target.id, *indices(listed))
        errors = (torch.tensor(listed["direct"].to_numpy()).double() - exact).abs()
        assert errors.max() <= min(result.tolerance, 1e-5)
        # No neuron that was left out belongs into the list.
        left_out = ~table.set_index(["layer", "neuron"]).index.isin(
            listed.set_index(["layer", "neuron"]).index
        )
        assert (sign * true[left_out]).max() <= (sign * exact).min() + 1e-5
