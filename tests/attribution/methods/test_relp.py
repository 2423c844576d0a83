"""RelP, attribution patching and EAP-IG as methods, against their formulas."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.attribution.methods.base import Exhaustive, MethodInput
from mnemoscope.attribution.methods.gradients import InputIntegratedGradients
from mnemoscope.attribution.methods.registry import method
from model.relp_in_float64 import relp_in_float64
from support import built, open_tiny, words

IDS = (5, 17, 80, 33)
PROMPT = words(*IDS)
TARGET = 40
KINDS: tuple[Literal["ffn", "attention"], ...] = ("ffn", "attention")


def scores_of(method_input: MethodInput, name: str) -> Tensor:
    one = method(name)
    assert isinstance(one, Exhaustive)
    return one.all(method_input)


def log_p(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)[:, TARGET]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_relp_is_activation_times_linearised_gradient(
    model_type: str, kind: Literal["ffn", "attention"]
) -> None:
    model = open_tiny(built(model_type))
    inside, values = model.language_model, []
    projections = [
        block.ffn_output if kind == "ffn" else block.attention_output for block in inside.structure.blocks
    ]
    handles = [
        projection.module.register_forward_pre_hook(lambda module, args: values.append(args[0].detach()))
        for projection in projections
    ]
    inside.model(torch.tensor([IDS]))
    for handle in handles:
        handle.remove()
    gradients = relp_in_float64(inside.model, inside.structure, [IDS], log_p)[kind]
    expected = torch.cat(
        [(m * g[0]).view(len(IDS), -1).sum(0) for m, g in zip(values, gradients, strict=True)]
    )
    found = scores_of(model.method_input(PROMPT, TARGET, kind=kind), "relp")
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_atp_is_another_name_of_activation_gradient(tiny: ms.Model) -> None:
    assert method("atp") is method("activation-gradient")
    found = tiny.rank_neurons(PROMPT, TARGET, method="atp", top=3)
    assert found.method == "activation-gradient"


def eap_ig(model: Any, path: str, n_steps: int) -> Tensor:
    """The formula with plain hooks in float64, `[n_layers, d_ff]`."""
    wide: Any = copy.deepcopy(model).double()
    wide.set_attn_implementation("eager")
    seen: list[Tensor] = []
    for name, module in wide.named_modules():
        if name.endswith(path):
            module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    (own,) = (wide.get_input_embeddings()(torch.tensor([IDS])).detach(),)
    total: Any = 0
    for step in range(1, n_steps + 1):
        seen.clear()
        embeddings = (own * step / n_steps).requires_grad_()
        value = log_p(wide(inputs_embeds=embeddings).logits[:, -1]).sum()
        total = total + torch.stack([g[0] for g in torch.autograd.grad(value, seen)])
    return (torch.stack([m.detach()[0] for m in seen]) * total / n_steps).sum(1)


def test_eap_ig_is_the_formula_whatever_fits() -> None:
    model = open_tiny(built("llama"))
    expected = eap_ig(model.language_model.model, "mlp.down_proj", InputIntegratedGradients.n_steps)
    for budget in (2**30, 1):
        method_input = model.method_input(PROMPT, TARGET, memory_budget=budget)
        found = scores_of(method_input, "eap-ig").view_as(expected)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_several_answers_and_log_odds_are_attributed(tiny: ms.Model) -> None:
    for name in ("relp", "eap-ig"):
        odds = scores_of(tiny.method_input(PROMPT, TARGET, against=[50]), name)
        one, other = (scores_of(tiny.method_input(PROMPT, token), name) for token in (TARGET, 50))
        # Where gradients are linear in the objective, as here, those of log-odds are a difference.
        assert torch.allclose(odds, one - other, atol=1e-5 * float(one.abs().max()))


def test_a_removed_neuron_has_no_score(tiny: ms.Model) -> None:
    with tiny.ablate([ms.FFNNeuron(1, 7)]):
        method_input = tiny.method_input(PROMPT, TARGET)
        width = method_input.grid.n_columns
        for name in ("relp", "eap-ig"):
            scores = scores_of(method_input, name)
            assert scores[width + 7] == 0
            assert (scores != 0).sum() > width
