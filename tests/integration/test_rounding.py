"""Intervals, sums and scores of the demo model against exact arithmetic, to the tolerance that is stated.

The reference takes the recorded states, coefficients and weights and computes every FFN neuron's
log-probability increase in float64, with code of its own.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.model.capture import Trace

pytestmark = pytest.mark.slow
PROMPTS = (
    ("The capital of Japan is the city of", " Tokyo"),
    ("The capital of Germany is the city of", " Berlin"),
    ("The opposite of hot is", " cold"),
)


def true_scores(model: ms.Model, trace: Trace, target: int) -> Tensor:
    """Log-probability increase of every FFN neuron in float64, `[n_layers, d_ff]`."""
    transformer = model.language_model.model
    head = transformer.lm_head.weight.detach().double()
    norm = transformer.model.norm
    final = trace.final_state.double()
    gain = norm.weight.detach().double() / (final.pow(2).mean() + norm.variance_epsilon).sqrt()
    rows = []
    for layer, block in enumerate(transformer.model.layers):
        base = (trace.resid_pre[layer] + trace.attention_out[layer]).double()
        log_p = torch.log_softmax((base * gain) @ head.T, dim=-1)
        columns = block.mlp.down_proj.weight.detach().double().T * gain
        scores = []
        for some, m in zip(columns.split(256), trace.coefficients[layer].double().split(256), strict=True):
            added = m[:, None] * (some @ head.T)
            scores.append(added[:, target] - (added + log_p).logsumexp(-1))
        rows.append(torch.cat(scores))
    return torch.stack(rows)


@pytest.mark.parametrize(("prompt", "target"), PROMPTS)
def test_every_interval_and_the_sum_hold_the_true_score(demo: ms.Model, prompt: str, target: str) -> None:
    result = demo.attribute(prompt, target, top=50, neurons="bounds", effects=False, query=False)
    (trace,) = demo.language_model.capture([result.token_ids])
    truth = true_scores(demo, trace, result.target.id)
    table = result.ffn_scores
    true = truth[torch.tensor(table["layer"].to_numpy()), torch.tensor(table["neuron"].to_numpy())].numpy()
    assert ((table["lower"] <= true) & (true <= table["upper"])).all()
    lower, upper = result.sum_of_scores("ffn")
    assert lower <= true.sum() <= upper
    assert result.tolerance is not None
    assert result.tolerance < 1e-3
    for name, sign in (("ffn_neurons", 1), ("suppressing_ffn_neurons", -1)):
        listed = getattr(result, name)
        at = (torch.tensor(listed["layer"].to_numpy()), torch.tensor(listed["neuron"].to_numpy()))
        errors = (torch.tensor(listed["score"].to_numpy()).double() - truth[at]).abs()
        assert errors.max() <= min(result.tolerance, 1e-5)
        # No neuron that was left out belongs into the list.
        rest = sign * truth.clone()
        rest[at] = -torch.inf
        assert rest.max() <= (sign * truth[at]).min() + 1e-5
