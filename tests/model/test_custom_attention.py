"""Families whose own code computes attention: what is seen of it is what it does; nothing stays behind."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

import mnemoscope as ms
from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.activations import capture
from mnemoscope.model.attention import (
    AttentionCall,
    QueryKeyCall,
    WeightsCall,
    has_custom_attention,
    watched_custom_attention,
)
from mnemoscope.model.components import capture_components
from mnemoscope.model.families.registry import FAMILIES, Family
from mnemoscope.model.gradients import key_gradients, total_effects, watched_block
from mnemoscope.model.hooks import observed_attention
from mnemoscope.model.objective import Objective
from mnemoscope.model.structure import discover
from mnemoscope.model.validation import probe_tokens, validate
from mnemoscope.model.weights import get_weight
from mnemoscope.results.parts import Part
from support import family_id, open_tiny, words

OWN_CODE = {"gptj", "codegen", "gpt_neo", "bloom", "mpt", "falcon", "xglm"}
# GPT-J and CodeGen call attention through transformers' interface since transformers 5.24.
OWN = tuple(f for f in FAMILIES if f.model_type in OWN_CODE and has_custom_attention(f.build()))
# Those that have a fused form too which does the same: with ALiBi the eager one adds its biases twice.
FUSED = [family for family in OWN if family.model_type == "falcon" and not family.config["alibi"]]

IDS = (5, 17, 80, 33, 5, 61, 9)
PROMPT = words(*IDS)
TARGET = 40
LAYER, HEAD = 1, 2


def eager(family: Family) -> PreTrainedModel:
    """The model of a family, built with the eager form of attention; only Falcon has another."""
    own = family.build()
    config = AutoConfig.for_model(family.model_type, **family.config)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    model.load_state_dict(own.state_dict())
    return model


@pytest.fixture(scope="module", params=OWN, ids=family_id)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def own(family: Family) -> ms.Model:
    """Built as transformers builds it when nothing is said about attention."""
    return open_tiny(family.build())


@pytest.fixture(scope="module")
def falcon() -> ms.Model:
    return open_tiny(next(f for f in OWN if f.variant.startswith("grouped")).build())


def calls_of(model: PreTrainedModel, ids: Sequence[int] = IDS) -> list[AttentionCall]:
    calls: list[AttentionCall] = []
    with observed_attention(model, calls.append), torch.no_grad():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    return calls


def is_clean(model: nn.Module) -> bool:
    """Whether no hook and no mode is there."""
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return not hooked and not _get_current_function_mode_stack()


@pytest.mark.parametrize("implementation", ["default", "eager"])
def test_every_family_is_proven(family: Family, implementation: str) -> None:
    model = family.build() if implementation == "default" else eager(family)
    assert has_custom_attention(model)
    before = model.config._attn_implementation
    structure = discover(model, probe_tokens(model))
    proof = validate(model, structure)
    assert proof.passed, proof.worst
    assert proof.worst.error < 1e-4
    assert model.config._attn_implementation == before
    assert (structure.n_heads, structure.d_head, structure.n_layers) == (4, 8, 3)
    assert structure.parallel == (
        family.model_type in {"gptj", "codegen"}
        or (family.model_type == "falcon" and family.config.get("parallel_attn", True))
    )
    assert all(block.input_projections is not None for block in structure.blocks)


def test_patterns_are_those_the_model_gives_out(family: Family) -> None:
    model = eager(family)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([IDS]), output_attentions=True, use_cache=False).attentions
    calls = calls_of(model)
    assert len(calls) == len(expected) == 3
    last = torch.tensor([len(IDS) - 1])
    for call, weights in zip(calls, expected, strict=True):
        assert isinstance(call, WeightsCall)
        assert call.n_heads == 4
        assert torch.allclose(call.patterns(), weights, atol=1e-6)
        assert torch.equal(call.pattern(last), call.patterns()[:, :, -1])
        assert not call.patterns().triu(1).any()


@pytest.mark.parametrize("family", FUSED, ids=family_id)
def test_patterns_of_the_fused_function_are_those_of_the_eager_form(family: Family) -> None:
    for fused, plain in zip(calls_of(family.build()), calls_of(eager(family)), strict=True):
        assert isinstance(fused, QueryKeyCall)
        assert torch.allclose(fused.patterns(), plain.patterns(), atol=1e-6)
        assert torch.allclose(fused.value, plain.value, atol=1e-6)


def test_observing_changes_nothing(own: ms.Model) -> None:
    model = own.language_model.model
    tokens = torch.tensor([IDS])
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits
        with observed_attention(model, lambda call: None):
            found = model(input_ids=tokens, use_cache=False).logits
    assert torch.equal(found, expected)


def test_a_batch_gives_what_single_prompts_give(own: ms.Model) -> None:
    prompts = [IDS[:4], IDS[3:], IDS[2:6]]
    opened = own.language_model
    batch = capture(opened.model, opened.structure, prompts)
    for activations, prompt in zip(batch, prompts, strict=True):
        (single,) = capture(opened.model, opened.structure, [prompt])
        for name in ("patterns", "values", "coefficients", "attention_out", "ffn_out", "final_state"):
            assert torch.allclose(getattr(activations, name), getattr(single, name), atol=1e-4, rtol=1e-4), (
                name
            )


def test_components_add_up(own: ms.Model) -> None:
    opened = own.language_model
    found = capture_components(opened.model, opened.structure, IDS, range(len(IDS)), calls=True)
    assert len(found.calls) == 3
    for layer, call in enumerate(found.calls):
        values = call.value[0].repeat_interleave(4 // call.value.shape[1], dim=0)
        heads = (call.patterns()[0] @ values).transpose(0, 1).flatten(1)
        assert torch.allclose(heads, found.attention_coefficients[layer], atol=1e-4)
        projection = opened.structure.blocks[layer].attention_output
        added = heads @ projection.columns() + found.attention_constant[layer]
        assert torch.allclose(added, found.attention_out[layer], atol=1e-4)
    (activations,) = capture(opened.model, opened.structure, [IDS])
    assert torch.allclose(found.resid_pre[:, -1], activations.resid_pre, atol=1e-4)


def log_p(model: ms.Model, parts: Sequence[Part], factor: float) -> float:
    with model.ablate(parts, factor=factor):
        table = model.predict(PROMPT, top=model.n_vocabulary).table
    return float(table.loc[table["id"] == TARGET, "log_probability"].iloc[0])


def test_total_effects_are_slopes_and_add_up(own: ms.Model) -> None:
    opened = own.language_model
    found = total_effects(
        opened.model, opened.structure, own.predict(PROMPT).token_ids, Objective((TARGET,)).value
    )
    expected = {
        ms.FFNNeuron(1, 7): found.ffn[1, :, 7].sum(),
        ms.AttentionNeuron(1, 2, 3): found.attention[1, :, 2, 3].sum(),
        ms.Head(0, 1): found.heads[0, 1],
        ms.Layer(0, "attention"): found.layers[0, 0],
        ms.Layer(2, "ffn"): found.layers[2, 1],
    }
    for part, total in expected.items():
        slope = (log_p(own, [part], 1.02) - log_p(own, [part], 0.98)) / 0.04
        assert float(total) == pytest.approx(slope, abs=2e-3, rel=1e-2)
    scale = float(found.attention.abs().sum())
    for layer, block in enumerate(opened.structure.blocks):
        by_source = found.attention_by_source(layer)
        assert torch.allclose(by_source.sum(-1), found.attention[layer].sum(0), atol=1e-5 * scale)
        of_all = {block.attention_output: found.heads[layer].sum(), block.ffn_output: found.ffn[layer].sum()}
        for kind, (projection, total) in enumerate(of_all.items()):
            if getattr(projection.module, "bias", None) is None:
                assert float(total) == pytest.approx(float(found.layers[layer, kind]), abs=1e-5 * scale)


def test_ablating_a_head_is_zeroing_its_columns(own: ms.Model) -> None:
    found = log_p(own, [ms.Head(LAYER, HEAD)], 0.0)
    projection = own.language_model.structure.blocks[LAYER].attention_output.module
    weight, dims = get_weight(projection), slice(HEAD * 8, HEAD * 8 + 8)
    with torch.no_grad():
        before = weight.clone()
        (weight[dims] if isinstance(projection, Conv1D) else weight[:, dims]).zero_()
        edited = log_p(own, [ms.Head(LAYER, HEAD)], 1.0)
        weight.copy_(before)
    assert found == pytest.approx(edited, abs=1e-5)
    assert found != pytest.approx(log_p(own, [ms.Head(LAYER, HEAD)], 1.0), abs=1e-5)


def test_many_ablations_in_one_batch_equal_single_ones(own: ms.Model) -> None:
    sets: list[list[Part]] = [
        [ms.FFNNeuron(2, 1), ms.FFNNeuron(0, 4)],
        [ms.Head(1, 2), ms.AttentionNeuron(1, 0, 3)],
        [ms.Layer(0, "attention")],
        [ms.Layer(1, "ffn"), ms.Head(2, 0)],
    ]
    found = own.ablate_each(PROMPT, TARGET, sets)["log_probability"].tolist()
    assert found == pytest.approx([log_p(own, parts, 0.0) for parts in sets], abs=1e-4)


def test_certified_neurons_are_the_best_of_all(own: ms.Model) -> None:
    certified = own.attribute(PROMPT, TARGET, top=9, effects=False)
    every = own.attribute(PROMPT, TARGET, top=9, effects=False, neurons="all")
    for name in ("ffn_neurons", "attention_neurons"):
        found, expected = getattr(certified, name), getattr(every, name)
        pd.testing.assert_frame_equal(found, expected, check_exact=False, atol=1e-6)


def test_keys_are_the_slopes_of_attention_scores(own: ms.Model) -> None:
    """By finite differences: log weights are scores but for what a row has in common."""
    opened = own.language_model
    block, step = opened.structure.blocks[LAYER].module, 1e-2
    with watched_block(block) as watched:
        capture(opened.model, opened.structure, [IDS])
    gradients = key_gradients(opened, LAYER, HEAD, watched)
    args, kwargs = watched.others

    def scores(states: Tensor) -> Tensor:
        calls: list[AttentionCall] = []
        with observed_attention(opened.model, calls.append), torch.no_grad():
            block(states, *args, **kwargs)
        return calls[0].patterns()[0, HEAD, -1].double().log()

    seen = scores(watched.states).isfinite()
    assert not gradients[~seen].any()
    places = seen.nonzero()[:-1, 0].tolist()  # the last position's own stream changes the query too
    assert len(places) >= 3
    for place, other in zip(places, places[1:] + places[:1], strict=True):
        direction = torch.randn(32)
        change = torch.zeros_like(watched.states)
        change[0, place] = step * direction
        after, before = scores(watched.states + change), scores(watched.states - change)
        slope = ((after - before)[place] - (after - before)[other]) / (2 * step)
        tolerance = 5e-3 * float(gradients[place].norm() * direction.norm())
        assert float(gradients[place] @ direction) == pytest.approx(float(slope), abs=tolerance)


def test_the_query_is_held_fixed_for_the_last_position(falcon: ms.Model) -> None:
    """Both ways to see a call give the same, and the one by formula holds the query by construction."""
    opened = falcon.language_model
    plain = open_tiny(eager(next(f for f in OWN if f.variant.startswith("grouped"))))
    found = []
    for model in (opened, plain.language_model):
        with watched_block(model.structure.blocks[LAYER].module) as watched:
            capture(model.model, model.structure, [IDS])
        found.append(key_gradients(model, LAYER, HEAD, watched))
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert found[0][-1].any()


def test_keys_that_were_not_seen_are_refused() -> None:
    call = WeightsCall(nn.Linear(2, 2), torch.zeros(1, 1, 2, 2), torch.eye(2)[None, None])
    with pytest.raises(UnsupportedModelError, match="does not hand out its keys"):
        call.score_by_keys(0)


def test_nothing_is_left_behind(own: ms.Model) -> None:
    model = own.language_model.model
    calls_of(model)
    assert is_clean(model)


@pytest.mark.parametrize("where", ["observer", "module"])
def test_nothing_is_left_behind_by_an_exception(own: ms.Model, where: str) -> None:
    opened = own.language_model
    broken = opened.structure.blocks[1].attention_output.module

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle of a block")

    handle = broken.register_forward_pre_hook(fail) if where == "module" else None
    observer = fail if where == "observer" else lambda call: None
    with pytest.raises(RuntimeError, match="in the middle"), observed_attention(opened.model, observer):
        opened.model(input_ids=torch.tensor([IDS]), use_cache=False)
    if handle is not None:
        handle.remove()
    assert is_clean(opened.model)
    assert len(calls_of(opened.model)) == 3


class Fused(nn.Module):
    """Attention by the fused function, called in one way or another."""

    def __init__(self, **how: object) -> None:
        super().__init__()
        self.child, self.how = nn.Identity(), how

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(states, 2 * states, 3 * states, **self.how)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"is_causal": True},
        {"scale": 0.7},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        {"attn_mask": torch.randn(1, 3, 1, 5)},
    ],
    ids=["plain", "causal", "scaled", "boolean", "biased"],
)
def test_the_fused_function_is_understood_however_it_is_called(how: dict[str, object]) -> None:
    module, states = Fused(**how), torch.randn(2, 3, 5, 4)
    calls: list[AttentionCall] = []
    with watched_custom_attention(module, calls.append):
        output = module(states)
    (call,) = calls
    assert torch.allclose(call.patterns() @ call.value, output, atol=1e-5)
    last = torch.tensor([4, 4])
    assert torch.allclose((call.pattern(last)[:, :, None] @ call.value)[:, :, 0], output[:, :, 4], atol=1e-5)
