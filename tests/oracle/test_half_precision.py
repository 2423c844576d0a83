"""A model in bfloat16: its own rounded states, read out in float64.

What a bfloat16 model computes is taken as it is; what is compared is all that follows from its states: the
readout, scores of layers and FFN neurons, and ablations, which round on their own way through the model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from oracle.checks import EVERYTHING, IDS, LARGEST_ERROR, TARGET, prompt
from support import built, open_tiny

PROMPT_IDS = IDS[:7]


class HalfLlama:
    """What plain hooks see of a Llama in bfloat16, as float64.

    Attributes:
        seen: by module, what it was given and what it gave at the last position.
    """

    def __init__(self, model: Any, silenced: Sequence[tuple[int, int]] = ()) -> None:
        """Run the model.

        Args:
            model: in bfloat16.
            silenced: FFN neurons, as layer and index, whose coefficients are set to 0 at every position.
        """
        self.model, self.seen = model, {}
        handles = [module.register_forward_hook(self._see) for module in model.modules()]
        for layer, neuron in silenced:
            projection = model.model.layers[layer].mlp.down_proj
            handles.append(projection.register_forward_pre_hook(self._silence(neuron)))
        with torch.no_grad():
            model(torch.tensor([PROMPT_IDS]), use_cache=False)
        for handle in handles:
            handle.remove()
        self.norm = model.model.norm
        self.final = self.seen[self.norm][0]
        self.log_p = self.read_out(self.final[None])[0]

    def read_out(self, states: Tensor) -> Tensor:
        """Predict with the final norm frozen, `[n, d_model] -> [n, n_vocabulary]`."""
        scale = (self.final.square().mean() + self.norm.variance_epsilon).rsqrt()
        head = self.model.lm_head.weight.detach().double()
        return (states * self.norm.weight.detach().double() * scale @ head.T).log_softmax(-1)

    def scores(self, layer: int) -> tuple[float, float, Tensor]:
        """Score attention, FFN and FFN neurons `[n_neurons]` of a layer, nats.

        The FFN's score ends at the stream as the model holds it, rounded after the addition.
        """
        block = self.model.model.layers[layer]
        resid_pre, attention = self.seen[block][0], self.seen[block.self_attn.o_proj][1]
        coefficients, _ = self.seen[block.mlp.down_proj]
        neurons = coefficients[:, None] * block.mlp.down_proj.weight.detach().double().T
        resid_mid, resid_post = resid_pre + attention, self.seen[block][1]
        of_attention = self._increase(attention[None], resid_pre)
        of_ffn = self._increase((resid_post - resid_mid)[None], resid_mid)
        return float(of_attention), float(of_ffn), self._increase(neurons, resid_mid)

    def _increase(self, vectors: Tensor, base: Tensor) -> Tensor:
        return self.read_out(base + vectors)[:, TARGET] - self.read_out(base[None])[0, TARGET]

    def _see(self, module: Any, args: Any, output: Any) -> None:
        given, output = args[0] if args else None, output[0] if isinstance(output, tuple) else output
        if isinstance(given, Tensor) and given.is_floating_point():
            pair = (states.reshape(-1, states.shape[-1])[-1].double() for states in (given, output))
            self.seen[module] = tuple(pair)

    @staticmethod
    def _silence(neuron: int) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            entered = args[0].clone()
            entered[..., neuron] = 0
            return (entered,)

        return hook


@pytest.fixture(scope="module")
def half() -> Any:
    return built("llama").to(torch.bfloat16)


@pytest.fixture(scope="module")
def opened(half: Any) -> ms.Model:
    return open_tiny(copy.deepcopy(half))


def test_scores_are_those_of_the_models_own_states(half: Any, opened: ms.Model) -> None:
    result = opened.attribute(prompt(PROMPT_IDS), TARGET, top=EVERYTHING, neurons="all", effects=False)
    oracle = HalfLlama(half)
    assert result.targets.value == pytest.approx(float(oracle.log_p[TARGET]), abs=LARGEST_ERROR)
    of_layer = {(row.layer, row.kind): row.direct for row in result.layers.itertuples()}
    for layer in range(opened.n_layers):
        attention, ffn, neurons = oracle.scores(layer)
        assert of_layer[layer, "attention"] == pytest.approx(attention, abs=LARGEST_ERROR)
        assert of_layer[layer, "ffn"] == pytest.approx(ffn, abs=LARGEST_ERROR)
        found = result.ffn_scores.query("layer == @layer").sort_values("neuron")["lower"].to_numpy()
        assert (torch.tensor(found) - neurons).abs().max() <= LARGEST_ERROR


def test_before_and_after_an_ablation_are_read_out_alike(half: Any, opened: ms.Model) -> None:
    neurons = [(0, 3), (1, 5), (2, 7)]
    found = opened.compare_ablation(
        prompt(PROMPT_IDS), TARGET, [ms.FFNNeuron(*neuron) for neuron in neurons], seeds=1
    )
    before, after = HalfLlama(half).log_p, HalfLlama(half, neurons).log_p
    for outcome, log_p in ((found.before, before), (found.after, after)):
        assert outcome["log_probability"] == pytest.approx(float(log_p[TARGET]), abs=LARGEST_ERROR)
        rank = 1 + int((log_p > log_p[TARGET]).sum())
        assert outcome["reciprocal_rank"] == pytest.approx(1 / rank)
