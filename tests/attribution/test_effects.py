"""First-order total effects: what they are the derivative of, and what adds up to what."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import mnemoscope as ms
from mnemoscope.model.gradients import TotalEffects, site_gradients, total_effects
from mnemoscope.model.objective import Objective
from mnemoscope.results.columns import TABLES
from mnemoscope.results.parts import Part
from mnemoscope.testing import backup_pair, planted_model
from support import built, open_tiny, words

PROMPT = words(5, 17, 80, 33)
TARGET = 40


def effects_of(model: ms.Model) -> TotalEffects:
    opened = model.language_model
    return total_effects(
        opened.model, opened.structure, model.predict(PROMPT).token_ids, Objective((TARGET,)).value
    )


def log_p(model: ms.Model, parts: list[Part], factor: float) -> float:
    with model.ablate(parts, factor=factor):
        table = model.predict(PROMPT, top=model.n_vocabulary).table
    return float(table.loc[table["id"] == TARGET, "log_probability"].iloc[0])


def slope(model: ms.Model, part: Part, step: float = 0.002) -> float:
    """Derivative of log p by the part's size, at its full size."""
    return (log_p(model, [part], 1 + step) - log_p(model, [part], 1 - step)) / (2 * step)


def test_totals_are_the_slope_of_scaling_the_part(tiny: ms.Model) -> None:
    found = effects_of(tiny)
    expected = {
        ms.FFNNeuron(1, 7): found.ffn[1, :, 7].sum(),
        ms.AttentionNeuron(1, 2, 3): found.attention[1, :, 2, 3].sum(),
        ms.Head(0, 1): found.heads[0, 1],
        ms.Layer(0, "attention"): found.layers[0, 0],
        ms.Layer(2, "ffn"): found.layers[2, 1],
    }
    for part, total in expected.items():
        assert float(total) == pytest.approx(slope(tiny, part), abs=2e-3, rel=1e-2)


def test_totals_add_up(tiny: ms.Model) -> None:
    found, structure = effects_of(tiny), tiny.language_model.structure
    scale = float(found.attention.abs().sum())
    for layer, block in enumerate(structure.blocks):
        by_source = found.attention_by_source(layer)
        assert torch.allclose(by_source.sum(-1), found.attention[layer].sum(0), atol=1e-5 * scale)
        of_all = {block.attention_output: found.heads[layer].sum(), block.ffn_output: found.ffn[layer].sum()}
        for kind, (projection, total) in enumerate(of_all.items()):
            if getattr(projection.module, "bias", None) is not None:
                continue
            # An RMSNorm undoes a common factor of all neurons, up to its epsilon; a layer is behind it.
            behind = projection.norm is not None
            expected = 0.0 if behind else float(found.layers[layer, kind])
            assert float(total) == pytest.approx(expected, abs=(1e-4 if behind else 1e-5) * scale)


def test_the_bias_is_what_is_left_of_a_layers_total() -> None:
    model = open_tiny(built("gpt_neox"))
    found = effects_of(model)
    module = model.language_model.structure.blocks[1].ffn_output.module
    with torch.no_grad():
        bias = module.bias.clone()
        changes = []
        for step in (0.02, -0.02):
            module.bias.copy_(bias * (1 + step))
            changes.append(log_p(model, [ms.FFNNeuron(0, 0)], 1.0))
        module.bias.copy_(bias)
    left = float(found.layers[1, 1] - found.ffn[1].sum())
    assert left == pytest.approx((changes[0] - changes[1]) / 0.04, abs=1e-3, rel=1e-2)
    assert abs(left) > 0.01


def test_totals_see_an_intervention(llama: ms.Model) -> None:
    with llama.ablate([ms.FFNNeuron(0, 3), ms.FFNNeuron(2, 9)]):
        found = effects_of(llama)
    assert float(found.ffn[0, :, 3].abs().max()) == 0.0
    assert float(found.ffn[2, :, 9].abs().max()) == 0.0


def test_nothing_is_left_behind(llama: ms.Model) -> None:
    model = llama.language_model.model
    before = [parameter.clone() for parameter in model.parameters()]
    effects_of(llama)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_frozen_weights_make_no_difference(llama: ms.Model) -> None:
    expected = effects_of(llama)
    parameters = list(llama.language_model.model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad():
            found = effects_of(llama)
    finally:
        for parameter in parameters:
            parameter.requires_grad_()
    assert torch.equal(found.ffn, expected.ffn)


def test_tables_carry_total_and_mediated(tiny: ms.Model) -> None:
    found, result = effects_of(tiny), tiny.attribute(PROMPT, TARGET, top=8)
    for name, table in result.tables().items():
        if "total" in TABLES.get(name, ()):
            assert (table["total"] - table["direct"]).to_numpy() == pytest.approx(
                table["mediated"].to_numpy()
            )
    by_source = [found.attention_by_source(layer) for layer in range(tiny.n_layers)]
    for row in result.ffn_neurons.itertuples():
        assert row.total == pytest.approx(float(found.ffn[row.layer, :, row.neuron].sum()), abs=1e-5)
    for row in result.suppressing_attention_neurons.itertuples():
        total = float(by_source[row.layer][row.head, row.dim, row.position])
        assert row.total == pytest.approx(total, abs=1e-5)
    for row in result.attention_neurons_summed.itertuples():
        assert row.total == pytest.approx(float(by_source[row.layer][row.head, row.dim].sum()), abs=1e-5)
    for row in result.heads_by_position.itertuples():
        total = float(by_source[row.layer][row.head, :, row.position].sum())
        assert row.total == pytest.approx(total, abs=1e-5)
    for row in result.heads.itertuples():
        assert row.total == pytest.approx(float(found.heads[row.layer, row.head]), abs=1e-5)
    for row in result.layers.itertuples():
        total = float(found.layers[row.layer, int(row.kind == "ffn")])
        assert row.total == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("neurons", ["top", "all", "bounds"])
def test_lists_by_total_effect_are_the_best_of_all(llama: ms.Model, neurons: str) -> None:
    totals = effects_of(llama).ffn.sum(1)
    result = llama.attribute(PROMPT, TARGET, top=9, by="total", neurons=neurons)
    for table, sign in ((result.ffn_neurons, 1), (result.suppressing_ffn_neurons, -1)):
        order = (sign * totals.flatten()).argsort(descending=True, stable=True)[:9]
        expected = [divmod(int(i), llama.d_ff) for i in order]
        assert [tuple(pair) for pair in table[["layer", "neuron"]].to_numpy()] == expected
    exact = llama.attribute(PROMPT, TARGET, top=1, neurons="all").ffn_scores.set_index(["layer", "neuron"])
    for row in result.ffn_neurons.itertuples():
        assert row.direct == pytest.approx(exact.loc[(row.layer, row.neuron), "lower"], abs=1e-5)
    for table in (result.layers, result.heads, result.heads_by_position, result.attention_neurons):
        assert table["total"].is_monotonic_decreasing
    every = torch.stack([effects_of(llama).attention_by_source(i) for i in range(llama.n_layers)])
    assert result.attention_neurons["total"].iloc[0] == pytest.approx(float(every.max()), abs=1e-6)
    assert result.suppressing_attention_neurons["total"].iloc[0] == pytest.approx(
        float(every.min()), abs=1e-6
    )


def test_effects_can_be_left_out(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, TARGET, top=3, effects=False)
    assert result.ffn_neurons["total"].isna().all()
    assert result.heads["mediated"].isna().all()
    with_effects = llama.attribute(PROMPT, TARGET, top=3)
    columns = ["layer", "neuron", "direct"]
    pd.testing.assert_frame_equal(result.ffn_neurons[columns], with_effects.ffn_neurons[columns])


def test_first_order_misses_a_pair_that_backs_each_other_up() -> None:
    planted = backup_pair()
    model, fact = ms.load((planted.model, planted.tokenizer)), planted.facts[0]
    first = ms.FFNNeuron(*fact.ffn_neurons[0])
    alone = model.single_ablations(fact.prompt, fact.target, [first])["drop"][0]
    both = model.ablate_each(fact.prompt, fact.target, [[ms.FFNNeuron(*n) for n in fact.ffn_neurons]])[
        "drop"
    ][0]
    totals = model.attribute(fact.prompt, fact.target, top=50).ffn_neurons.set_index(["layer", "neuron"])[
        "total"
    ]
    second = ms.FFNNeuron(*fact.ffn_neurons[1])
    assert both > alone + 1.0  # the pair matters, though neither does alone
    predicted = float(totals.get(first, 0.0)) + float(totals.get(second, 0.0))
    assert abs(predicted - both) > 0.5 * both


def test_first_order_vanishes_where_the_prediction_is_saturated() -> None:
    planted = planted_model(probability=0.9999)
    model, fact = ms.load((planted.model, planted.tokenizer)), planted.facts[0]
    neurons = [ms.FFNNeuron(*neuron) for neuron in fact.ffn_neurons]
    drop = model.ablate_each(fact.prompt, fact.target, [neurons])["drop"][0]
    result = model.attribute(fact.prompt, fact.target, top=model.d_ff)
    totals = result.ffn_neurons.set_index(["layer", "neuron"])["total"]
    assert result.target.probability > 0.999
    assert drop > 2.0
    assert sum(float(totals.get(neuron, 0.0)) for neuron in neurons) < 0.1 * drop


def test_lists_by_relp_hold_its_total_effects(tiny: ms.Model) -> None:
    """RelP's are activations times the gradients of the linearised pass, which has its own tests."""
    found = tiny.attribute(PROMPT, TARGET, top=9, by="relp", query=False)
    language_model = tiny.language_model
    ids = list(found.token_ids)
    sites = site_gradients(
        language_model, [ids], lambda logits: logits.log_softmax(-1)[:, TARGET], linearised=True
    )
    layers = zip(sites.activations["ffn"], sites.gradients["ffn"], strict=True)
    expected = [(values * slopes)[0].sum(0) for values, slopes in layers]
    largest = max(float(each.abs().max()) for each in expected)
    assert len(found.ffn_neurons) > 0
    for row in found.ffn_neurons.itertuples():
        assert row.total == pytest.approx(float(expected[row.layer][row.neuron]), abs=1e-5 * largest)
        assert row.mediated == pytest.approx(row.total - row.direct, abs=1e-5)
    assert found.ffn_neurons["total"].is_monotonic_decreasing
    best = max(float(each.max()) for each in expected)
    assert found.ffn_neurons["total"].iloc[0] == pytest.approx(best, rel=1e-4)
    plain = tiny.attribute(PROMPT, TARGET, top=9, by="total", query=False)
    assert abs(found.layers["total"].sum() - plain.layers["total"].sum()) > 1e-4


def test_attribution_patching_is_another_name_of_the_total_effect(llama: ms.Model) -> None:
    found, expected = (llama.attribute(PROMPT, TARGET, top=9, by=by) for by in ("atp", "total"))
    for name, table in expected.tables().items():
        pd.testing.assert_frame_equal(found.tables()[name], table)


@pytest.mark.parametrize("by", ["total", "atp", "relp"])
def test_an_order_by_effects_needs_them(llama: ms.Model, by: str) -> None:
    with pytest.raises(ms.OptionError, match=f'by="{by}" needs the total effects'):
        llama.attribute(PROMPT, TARGET, by=by, effects=False)  # pyright: ignore[reportArgumentType]
