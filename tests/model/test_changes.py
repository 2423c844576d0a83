"""A model that is changed after it was opened is looked at anew, and every way of changing it is noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

import mnemoscope as ms
from mnemoscope.api.requests import geometry
from mnemoscope.attribution.geometry import Geometry
from mnemoscope.model.activations import capture
from mnemoscope.model.language_model import weights_digest
from mnemoscope.model.validation import require_sums
from support import built, check_alike, open_tiny, save_tiny, words

PROMPT = words(5, 17, 80, 33)


def scale_in_place(model: nn.Module) -> None:
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(7.0)


def scale_data(model: nn.Module) -> None:
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data *= 7.0


def scale_one_neuron(model: nn.Module) -> None:
    model.model.layers[1].mlp.down_proj.weight.data[:, 3] *= 50.0


def swap_neurons(model: nn.Module) -> None:
    weight = model.model.layers[1].mlp.down_proj.weight.data
    weight[:, [3, 5]] = weight[:, [5, 3]] * torch.tensor([1.0, 30.0])


def scale_the_head(model: nn.Module) -> None:
    model.lm_head.weight.data *= 3.0


def scale_the_final_norm(model: nn.Module) -> None:
    with torch.no_grad():
        model.model.norm.weight.mul_(2.0)


def replace_a_weight(model: nn.Module) -> None:
    attention = model.model.layers[0].self_attn
    attention.o_proj.weight = nn.Parameter(5 * attention.o_proj.weight.detach())


CHANGES = (
    scale_in_place,
    scale_data,
    scale_one_neuron,
    swap_neurons,
    scale_the_head,
    scale_the_final_norm,
    replace_a_weight,
)


def scale_the_post_norms(model: nn.Module) -> None:
    with torch.no_grad():
        for layer in model.model.layers:
            layer.post_feedforward_layernorm.weight.mul_(8.0)
            layer.post_attention_layernorm.weight.mul_(8.0)


def turn_the_final_norm(model: nn.Module) -> None:
    weight = model.model.norm.weight
    with torch.no_grad():
        weight.copy_(weight.flip(0) * torch.linspace(0.05, 8.0, len(weight)))


def replace_the_heads_weight(model: nn.Module) -> None:
    model.lm_head.weight = nn.Parameter(5.0 * model.lm_head.weight.detach().flip(0))


def replace_the_heads_data(model: nn.Module) -> None:
    model.lm_head.weight.data = 5.0 * model.lm_head.weight.data.flip(0)


def replace_the_head(model: nn.Module) -> None:
    head = nn.Linear(model.lm_head.in_features, model.lm_head.out_features, bias=False)
    head.weight = nn.Parameter(5.0 * model.lm_head.weight.detach().flip(0))
    model.lm_head = head


# Only a vocabulary that exceeds the tokens that bounds sum over lets a stale measure of the others show.
N_VOCABULARY = 4000


@pytest.mark.parametrize(
    ("model_type", "change"),
    [
        ("llama", turn_the_final_norm),
        ("llama", replace_the_heads_weight),
        ("llama", replace_the_heads_data),
        ("llama", replace_the_head),
        ("olmo2", scale_the_post_norms),
        ("olmo2", turn_the_final_norm),
    ],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_bounds_and_ranks_are_of_the_changed_norms_and_head(
    model_type: str, change: Callable[[nn.Module], None]
) -> None:
    transformer = built(model_type, vocab_size=N_VOCABULARY)
    model = open_tiny(transformer)
    options: dict[str, Any] = {"top": 20, "effects": False, "query": False}
    model.attribute(PROMPT, 7, neurons="bounds", **options)
    model.rank_neurons(PROMPT, 7, method="rank")
    change(transformer)
    fresh = open_tiny(copy.deepcopy(transformer))
    found = model.attribute(PROMPT, 7, neurons="bounds", **options)
    exact = fresh.attribute(PROMPT, 7, neurons="all", **options)
    for name in ("ffn_scores", "attention_scores"):
        bounds, scores = getattr(found, name), getattr(exact, name)["lower"]
        assert ((bounds["lower"] <= scores + 1e-5) & (scores - 1e-5 <= bounds["upper"])).all(), name
    check_alike(model.attribute(PROMPT, 7, **options), fresh.attribute(PROMPT, 7, **options))
    for method in ("rank", "coefficient-over-rank"):
        ranked, right = (each.rank_neurons(PROMPT, 7, method=method).neurons for each in (model, fresh))
        assert ranked.equals(right), method


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_is_that_of_the_changed_weights(change: Callable[[nn.Module], None]) -> None:
    model = open_tiny(built("llama"))
    transformer = model.language_model.model
    model.attribute(PROMPT, 7, top=5, neurons="bounds")
    model.rank_neurons(PROMPT, 7, method="rank")
    assert model.plain_text().perplexity > 1
    change(transformer)
    fresh = open_tiny(transformer)
    found = model.attribute(PROMPT, 7, top=5, neurons="bounds")
    check_alike(found, fresh.attribute(PROMPT, 7, top=5, neurons="bounds"))
    exact = fresh.attribute(PROMPT, 7, top=5, neurons="all").ffn_scores["lower"]
    assert ((found.ffn_scores["lower"] <= exact) & (exact <= found.ffn_scores["upper"])).all()
    ranked, expected = (each.rank_neurons(PROMPT, 7, method="rank").neurons for each in (model, fresh))
    assert ranked.equals(expected)
    assert model.plain_text().perplexity == pytest.approx(fresh.plain_text().perplexity, rel=1e-5)


def test_measured_weights_hold_until_they_are_changed() -> None:
    model = open_tiny(built("llama"))
    found = geometry(model.language_model)
    model.attribute(PROMPT, 7, top=5)
    assert geometry(model.language_model) is found
    assert found.holds()
    scale_one_neuron(model.language_model.model)
    assert not found.holds()
    assert isinstance(geometry(model.language_model), Geometry)
    assert geometry(model.language_model) is not found


@pytest.mark.parametrize(
    "change", [scale_in_place, scale_data, scale_the_head], ids=lambda change: change.__name__
)
def test_a_run_of_other_weights_is_refused(change: Callable[[nn.Module], None]) -> None:
    model = open_tiny(built("llama"))
    run = model.run(PROMPT)
    run.attribute(7, top=3)
    change(model.language_model.model)
    with pytest.raises(ms.OptionError, match="begin another run"):
        run.attribute(8, top=3)


def hook_on_the_head(model: nn.Module) -> None:
    model.lm_head.register_forward_hook(lambda module, args, output: output + output.abs() / 3)


def hook_on_the_model(model: nn.Module) -> None:
    def shifted(module: nn.Module, args: Any, output: Any) -> Any:
        output.logits = output.logits + torch.arange(output.logits.shape[-1]) / 50
        return output

    model.register_forward_hook(shifted)


def a_head_is_zeroed(model: nn.Module) -> None:
    def zeroed(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        values = args[0].clone()
        values[..., :8] = 0
        return (values,)

    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(zeroed)


def an_ffn_is_scaled(model: nn.Module) -> None:
    model.model.layers[1].mlp.down_proj.register_forward_hook(lambda module, args, output: output * 0.5)


def something_is_added_to_the_stream(model: nn.Module) -> None:
    model.model.layers[0].register_forward_hook(lambda module, args, output: output + 1.0)


def the_final_norm_is_scaled_out_of_sight(model: nn.Module) -> None:
    model.model.norm.weight.data *= 2.0


HOOKS = (
    (hook_on_the_head, "readout"),
    (hook_on_the_model, "readout"),
    (a_head_is_zeroed, "attention neurons"),
    (an_ffn_is_scaled, "FFN neurons"),
    (something_is_added_to_the_stream, "residual stream"),
    (the_final_norm_is_scaled_out_of_sight, "readout"),
)


@pytest.mark.parametrize(("change", "what"), HOOKS, ids=[change.__name__ for change, _ in HOOKS])
def test_what_does_not_add_up_any_more_is_refused(change: Callable[[nn.Module], None], what: str) -> None:
    model = open_tiny(built("llama"))
    model.attribute(PROMPT, 7, top=3)
    change(model.language_model.model)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: model.attribute(PROMPT, 7, top=3),
        lambda: model.predict(PROMPT),
        lambda: model.compare_ablation(PROMPT, 7, [ms.FFNNeuron(0, 1)], seeds=1),
        lambda: model.ablate_each(PROMPT, 7, [[ms.FFNNeuron(0, 1)]]),
        lambda: model.generate(PROMPT, 2),
    )
    # Changes through .data are only seen where a prompt's own sums are checked.
    checked = calls[:2] if change is the_final_norm_is_scaled_out_of_sight else calls
    for call in checked:
        with pytest.raises(ms.UnsupportedModelError, match="remove hooks"):
            call()
    (activations,) = capture(model.language_model.model, model.language_model.structure, [[5, 17, 80, 33]])
    with pytest.raises(ms.UnsupportedModelError, match=f"do not add up on this prompt.*{what}"):
        require_sums(activations, model.language_model.model, model.language_model.structure, neurons=True)


def test_a_changed_neuron_still_adds_up_where_a_hook_says_what_enters() -> None:
    """A hook that scales what enters the down projection is an intervention like ours: numbers follow it."""
    model = open_tiny(built("llama"))
    down = model.language_model.model.model.layers[1].mlp.down_proj

    def scaled(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        values = args[0].clone()
        values[..., 3] *= 4
        return (values,)

    with model.ablate([ms.FFNNeuron(1, 3)], factor=4.0):
        expected = model.attribute(PROMPT, 7, top=5, query=False)
    handle = down.register_forward_pre_hook(scaled)
    check_alike(model.attribute(PROMPT, 7, top=5, query=False), expected)
    handle.remove()


def test_switching_adapters_is_followed() -> None:
    """Lists, intervals and ranks are those of the adapters that are active at the call."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["down_proj", "o_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(built("llama"), config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.mul_(10)
    model = open_tiny(adapted)
    seen = []
    for switch in (adapted.disable_adapter_layers, adapted.enable_adapter_layers):
        switch()
        fresh = open_tiny(adapted)
        found, expected = (each.attribute(PROMPT, 7, top=5, neurons="bounds") for each in (model, fresh))
        check_alike(found, expected)
        exact = fresh.attribute(PROMPT, 7, top=5, neurons="all").ffn_scores["lower"]
        assert ((found.ffn_scores["lower"] <= exact) & (exact <= found.ffn_scores["upper"])).all()
        for method in ("rank", "norm", "coefficient-over-rank"):
            ranked, right = (each.rank_neurons(PROMPT, 7, method=method).neurons for each in (model, fresh))
            assert ranked.equals(right), method
        with torch.no_grad():
            own = adapted(torch.tensor([found.token_ids])).logits[0, -1].double().log_softmax(-1)[7]
        assert found.targets.value == pytest.approx(float(own), abs=1e-5)
        seen.append(found.targets.value)
        compared, expected = (
            each.compare_ablation(PROMPT, 7, [ms.FFNNeuron(1, 3)], seeds=1).plain_text
            for each in (model, fresh)
        )
        assert compared is not None
        assert expected is not None
        assert compared.perplexity_before == pytest.approx(expected.perplexity_before, rel=1e-5)
        assert compared.kl == pytest.approx(expected.kl, rel=1e-3)
        responses, right = (each.sensitivity().responses["ffn"] for each in (model, fresh))
        assert torch.allclose(responses, right, rtol=1e-3)
    assert abs(seen[0] - seen[1]) > 0.01


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_digest_of_the_weights_sees_every_change(change: Callable[[nn.Module], None]) -> None:
    model = built("llama")
    digest = weights_digest(model)
    assert weights_digest(built("llama")) == digest
    model(torch.tensor([[5, 17, 80]]))
    assert weights_digest(model) == digest
    change(model)
    assert weights_digest(model) != digest


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    folders = [save_tiny(built("gpt2"), tmp_path / name) for name in ("one", "two")]
    model, other = (ms.load(folder).hf_model for folder in folders)
    digest = weights_digest(model)
    assert weights_digest(other) == digest
    other.config.layer_norm_epsilon *= 2
    assert weights_digest(other) != digest
    assert weights_digest(model.to(torch.bfloat16)) != digest


def test_the_digest_sees_which_adapters_are_active() -> None:
    config = peft.LoraConfig(r=4, target_modules=["down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(built("llama"), config)
    model = open_tiny(adapted).hf_model
    active = weights_digest(model)
    adapted.disable_adapter_layers()
    assert weights_digest(model) != active
    adapted.enable_adapter_layers()
    assert weights_digest(model) == active
    next(weight for name, weight in model.named_parameters() if "lora_A" in name).data[0] += 1
    assert weights_digest(model) != active


def test_a_hook_that_scales_the_logits_is_found_as_a_logit_scale() -> None:
    model = open_tiny(built("llama"))
    transformer = model.language_model.model
    model.predict(PROMPT)
    handle = transformer.lm_head.register_forward_hook(lambda module, args, output: output * 1.5)
    found = model.attribute(PROMPT, 7, top=3)
    with torch.no_grad():
        own = transformer(torch.tensor([found.token_ids])).logits[0, -1].double().log_softmax(-1)[7]
    assert found.targets.value == pytest.approx(float(own), abs=1e-5)
    handle.remove()
    check_alike(model.attribute(PROMPT, 7, top=3), open_tiny(transformer).attribute(PROMPT, 7, top=3))


@pytest.mark.parametrize("method", ["norm", "norm-times-coefficient", "rank", "coefficient-over-rank"])
def test_a_method_alone_follows_changes_out_of_sight(method: str) -> None:
    """Nothing else has measured the weights when they are changed through .data."""
    model = open_tiny(built("llama"))
    before = model.rank_neurons(PROMPT, 7, method=method).neurons
    weight = model.language_model.model.model.layers[1].mlp.down_proj.weight.data
    weight[:, ::2] *= -40.0
    fresh = open_tiny(copy.deepcopy(model.language_model.model))
    found, expected = (each.rank_neurons(PROMPT, 7, method=method).neurons for each in (model, fresh))
    assert found.equals(expected)
    assert not found.equals(before)
