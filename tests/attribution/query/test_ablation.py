"""Query neurons zeroed: what is predicted, what is measured, and how the two are compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import pytest
import torch

import mnemoscope as ms
from mnemoscope._io import json_text
from mnemoscope.attribution.query.ablation import measured, predicted, shallow_query_neurons
from mnemoscope.attribution.query.scores import ValueNeurons, state_read, value_index
from mnemoscope.attribution.query.tables import attention_values, ffn_values, split_by_layer
from mnemoscope.intervention.controls import matched_random
from mnemoscope.model.activations import ActivationCache
from mnemoscope.model.components import ResidualDecomposition, capture_components
from mnemoscope.model.families.registry import FAMILIES
from mnemoscope.model.input_projections import InputProjection
from mnemoscope.model.structure import Block, ModelStructure
from mnemoscope.model.weights import Linear, get_weight
from mnemoscope.results.columns import COEFFICIENT_COLUMNS
from mnemoscope.results.parts import FFNNeuron, Part
from mnemoscope.results.query import QueryAblation
from support import TINY_FEW, open_tiny, words

PROMPT = words(3, 17, 44, 8, 60, 21)
TARGET = 40


def pairs_of(parts: Sequence[Part]) -> set[tuple[int, int]]:
    """Layer and neuron of FFN neurons."""
    return {(part.layer, part.neuron) for part in parts if isinstance(part, FFNNeuron)}


def attributed(model: ms.Model, neurons: str = "top") -> ms.Attribution:
    return model.attribute(
        PROMPT, TARGET, top=40, neurons=neurons, effects=False, suppressing=False, query=False
    )


def seen(
    model: ms.Model, result: ms.Attribution
) -> tuple[ResidualDecomposition, ActivationCache, list[ValueNeurons]]:
    language_model = model.language_model
    last = len(result.tokens) - 1
    components = capture_components(
        language_model.model, language_model.structure, result.token_ids, range(len(result.tokens))
    )
    (activations,) = language_model.capture([result.token_ids])
    groups = [
        attention_values(result.attention_neurons, language_model),
        ffn_values(result.ffn_neurons, language_model, last),
    ]
    return components, activations, groups


def outputs_of(projection: InputProjection, state: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    """What the projection's own module gives for a state whose norm is frozen at another one."""
    given = state
    if projection.norm is not None:
        norm = projection.norm
        given = norm.centre(state) * norm.scale(frozen) * norm.weight
        given = given if norm.bias is None else given + norm.bias
    with torch.no_grad():
        assert isinstance(projection.matrix, Linear)
        module = projection.matrix.module
        return module(given[None].to(get_weight(module).dtype))[0].float()[projection.outputs]


def activation_of(block: Block) -> torch.nn.Module:
    """The model's own module."""
    return next(module for name, module in block.module.named_modules() if "act" in name.split(".")[-1])


def made_of(structure: ModelStructure, layer: int, state: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    """What a layer's own modules make of a state whose norm is frozen at another one, `[d_ff]`."""
    projections = structure.blocks[layer].input_projections
    assert projections is not None
    activate = activation_of(structure.blocks[layer])
    up = outputs_of(projections.up, state, frozen)
    gate = projections.gate and outputs_of(projections.gate, state, frozen)
    with torch.no_grad():
        return activate(up) if gate is None else activate(gate) * up


def test_predicted_is_what_the_modules_give_without_what_one_neuron_wrote(tiny: ms.Model) -> None:
    """With the norms frozen at the whole stream, and the attention weights as they were."""
    structure = tiny.language_model.structure
    components, activations, groups = seen(tiny, attributed(tiny))
    upstream = FFNNeuron(0, int(components.ffn_coefficients[0].abs().amax(0).argmax()))
    found = predicted(structure, components, activations, groups, [upstream]).split(40)
    before = measured(structure, activations, groups).split(40)
    column = structure.blocks[0].ffn_output.columns(torch.tensor([upstream.neuron]))[0]
    changes = 0
    for neurons, after, unchanged in zip(groups, found, before, strict=True):
        for row in range(len(neurons.layer)):
            layer, index, position = (
                int(values[row]) for values in (neurons.layer, neurons.index, neurons.position)
            )
            projections = structure.blocks[layer].input_projections
            assert projections is not None
            state = state_read(structure, components, neurons.kind, layer)[position]
            written = column * components.ffn_coefficients[0, position, upstream.neuron] * (layer > 0)
            if neurons.kind == "attention":
                carried = int(value_index(structure, neurons.index)[row])
                value = outputs_of(projections.value, state - written, state)[carried]
                factor = activations.head_factors[layer, index]
                expected = factor * activations.patterns[layer, index // structure.d_head, position] * value
            else:
                factors = structure.blocks[layer].ffn_output.input_factors(
                    made_of(structure, layer, state, state)
                )
                expected = (factors * made_of(structure, layer, state - written, state))[index]
            assert float(after[row]) == pytest.approx(float(expected), rel=1e-3, abs=1e-4)
            changes += abs(float(after[row] - unchanged[row])) > 1e-3
            assert layer > 0 or after[row] == unchanged[row]
    assert changes > 5


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_where_nothing_lies_between_the_prediction_is_the_measurement(family: str) -> None:
    """Norms that divide by a constant, attention that looks everywhere alike, one layer further up."""
    built = next(f for f in FAMILIES if f.model_type == family)
    eps = "rms_norm_eps" if family == "llama" else "layer_norm_eps"
    model = type(built)(built.name, family, built.variant, {**built.config, eps: 1e6}).build()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.mul_(1e3)
    for module in model.modules():
        if hasattr(module, "scaling"):
            module.scaling = 1e-9
    opened = open_tiny(model)
    structure = opened.language_model.structure
    result = attributed(opened, neurons="all")
    next_layer = result.attention_scores[result.attention_scores["layer"] == 1]
    ffn_layer = result.ffn_scores[result.ffn_scores["layer"] == 1]
    components, activations, _ = seen(opened, result)
    groups = [attention_values(next_layer.assign(direct=0.0), opened.language_model)]
    if structure.parallel:
        groups.append(ffn_values(ffn_layer.assign(direct=0.0), opened.language_model, len(result.tokens) - 1))
    parts = [FFNNeuron(0, neuron) for neuron in range(0, structure.d_ff, 3)]
    with opened.ablate(parts):
        (changed,) = opened.language_model.capture([result.token_ids])
    before, after = (measured(structure, each, groups) for each in (activations, changed))
    assert predicted(structure, components, activations, groups, parts).numpy() == pytest.approx(
        after.numpy(), abs=1e-4 * float(before.abs().max())
    )
    assert (after - before).abs().max() > 0.1 * before.abs().max()


def coefficients_of(model: ms.Model, table: pd.DataFrame) -> list[float]:
    """Of the value neurons of a table, as attributing the model tells them."""
    result = attributed(model, neurons="all")
    attention = result.attention_scores.set_index(["layer", "head", "dim", "position"])["coefficient"]
    ffn = result.ffn_scores.set_index(["layer", "neuron"])["coefficient"]
    return [
        float(ffn[row.layer, row.neuron])
        if row.kind == "ffn"
        else float(attention[row.layer, row.head, row.dim, row.position])
        for row in table.itertuples()
    ]


@TINY_FEW
def test_coefficients_are_those_of_edited_models(tiny: ms.Model) -> None:
    """Before, without the query neurons, and without each control."""
    found = tiny.compare_query_ablation(attributed(tiny), top=10, seeds=2, values=20)
    table, parts = found.coefficients, found.ablation.parts
    assert list(table.columns) == list(COEFFICIENT_COLUMNS)
    assert table["kind"].tolist() == ["attention"] * 20 + ["ffn"] * (len(table) - 20)
    near = {"rel": 1e-3, "abs": 1e-4}
    assert table["before"].tolist() == pytest.approx(coefficients_of(tiny, table), **near)
    assert table["after"].tolist() == pytest.approx(coefficients_of(tiny.edit(parts), table), **near)
    assert not table["after"].equals(table["before"])
    structure = tiny.language_model.structure
    draws = []
    for seed in range(2):
        drawn = matched_random(parts, structure, seed)
        own = [pair in pairs_of(drawn) for pair in zip(table["layer"], table["neuron"], strict=True)]
        coefficients = pd.Series(coefficients_of(tiny.edit(drawn), table))
        draws.append(coefficients.mask(pd.Series(own)))
    each = pd.DataFrame(draws)
    near["nan_ok"] = True
    assert table["control_mean"].tolist() == pytest.approx(each.mean().tolist(), **near)
    spread = each.std().fillna(0).tolist()
    assert table["control_standard_deviation"].tolist() == pytest.approx(spread, **near)


@TINY_FEW
@pytest.mark.parametrize("of", ["attention", "ffn"])
def test_zeroes_the_shallow_neurons_with_the_highest_query_scores(tiny: ms.Model, of: str) -> None:
    result = attributed(tiny)
    found = tiny.compare_query_ablation(result, top=12, seeds=2, values=20, of=of)
    queried = tiny.query(result, values=20, top=tiny.n_layers * tiny.d_ff)
    table = (queried.of_attention if of == "attention" else queried.of_ffn).ffn_neurons
    best = table[(table["layer"] < tiny.n_layers // 2) & (table["score"] > 0)].head(12)
    expected = list(zip(best["layer"], best["neuron"], strict=True))
    assert [(part.layer, part.neuron) for part in found.ablation.parts] == expected
    with_parts = tiny.compare_ablation(PROMPT, TARGET, [FFNNeuron(*pair) for pair in expected], seeds=2)
    assert found.ablation.after == with_parts.after
    pd.testing.assert_frame_equal(found.ablation.controls, with_parts.controls)


@TINY_FEW
def test_what_does_not_activate_the_value_neurons_is_left_alone(tiny: ms.Model) -> None:
    result = attributed(tiny)
    components, _, (neurons, _) = seen(tiny, result)
    parts = shallow_query_neurons(tiny.language_model.structure, components, neurons, 1000)
    every = tiny.query(result, values=40, top=tiny.n_layers * tiny.d_ff).of_attention.ffn_neurons
    first = every[every["layer"] == 0]
    assert (first["score"] < 0).any()
    positive = first[first["score"] > 0]
    assert [(p.layer, p.neuron) for p in parts] == list(
        zip(positive["layer"], positive["neuron"], strict=True)
    )


def test_controls_have_the_same_layers(llama: ms.Model) -> None:
    parts = llama.compare_query_ablation(attributed(llama), top=20, seeds=1).ablation.parts
    drawn = matched_random(parts, llama.language_model.structure, seed=0)
    assert Counter(part.layer for part in drawn) == Counter(part.layer for part in parts)
    assert not set(drawn) & set(parts)


def test_value_neurons_that_are_zeroed_themselves_are_left_out(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, TARGET, top=144, effects=False, suppressing=False, query=False)
    found = llama.compare_query_ablation(result, top=20, seeds=1, values=100, of="ffn")
    values = set(zip(*(result.ffn_neurons.head(100)[name] for name in ("layer", "neuron")), strict=True))
    ffn = found.coefficients[found.coefficients["kind"] == "ffn"]
    left = set(zip(ffn["layer"], ffn["neuron"], strict=True))
    both = values & pairs_of(found.ablation.parts)
    assert both
    assert left == values - both
    # Nothing below the first layer's neurons was zeroed, so those that are left stay as they were.
    first = ffn[ffn["layer"] == 0]
    assert len(first)
    assert first["after"].tolist() == first["before"].tolist() == first["predicted"].tolist()


def test_all_ffn_value_neurons_may_be_zeroed_themselves(llama: ms.Model) -> None:
    result = attributed(llama)
    parts = llama.compare_query_ablation(result, top=3, seeds=1, values=5).ablation.parts
    zeroed = result.ffn_neurons.head(3).assign(
        layer=[part.layer for part in parts], neuron=[part.neuron for part in parts]
    )
    found = llama.compare_query_ablation(replace(result, ffn_neurons=zeroed), top=3, seeds=1, values=5)
    assert found.coefficients["kind"].tolist() == ["attention"] * 5
    assert found.coefficients["neuron"].isna().all()
    assert found.coefficients["after"].notna().all()


def made(before: list[float], predicted: list[float], after: list[float]) -> QueryAblation:
    """One with these attention value neurons and a hand-made ablation."""
    n = len(before)
    table = pd.DataFrame(
        {
            "kind": "attention",
            "layer": 2,
            "head": pd.array(range(n), "Int64"),
            "dim": pd.array([0] * n, "Int64"),
            "position": 1,
            "neuron": pd.array([None] * n, "Int64"),
            "direct": 1.0,
            "before": before,
            "predicted": predicted,
            "after": after,
            "control_mean": [0.9 * value or 0.1 for value in before],
            "control_standard_deviation": 0.0,
        }
    )
    return QueryAblation("attention", ablation=None, coefficients=table)  # pyright: ignore[reportArgumentType]


def test_agreement_of_a_hand_example() -> None:
    """Changes -50 %, -25 %, 0 measured; -25 %, -50 %, +10 % predicted; the last neuron was 0 before."""
    found = made([2, 4, -2, 0], [1.5, 2, -2.2, 1], [1, 3, -2, 5]).agreement.set_index("kind")
    for kind in ("attention", "both"):
        row = found.loc[kind]
        assert row["n"] == 3
        assert row["pearson"] == pytest.approx(0.0875 / (0.125 * 0.18166667) ** 0.5)
        assert row["spearman"] == pytest.approx(0.5)
        assert row["measured"] == pytest.approx(-0.25)
        assert row["predicted"] == pytest.approx(-0.65 / 3)
        assert row["controls"] == pytest.approx(-0.1)
    assert found.loc["ffn", "n"] == 0
    assert found.loc["ffn"].drop("n").isna().all()


def test_agreement_of_a_single_neuron_has_no_correlation() -> None:
    row = made([2], [1], [1]).agreement.iloc[0]
    assert row["measured"] == row["predicted"] == -0.5
    assert pd.isna(row["pearson"])
    assert pd.isna(row["spearman"])


def test_json_is_plain(llama: ms.Model) -> None:
    found = llama.compare_query_ablation(attributed(llama), top=10, seeds=1, values=3)
    document = json.loads(json_text(found.to_json()))
    assert document["of"] == "attention"
    assert len(document["ablation"]["parts"]) == 10
    first, last = document["coefficients"][0], document["coefficients"][-1]
    assert (first["kind"], first["neuron"], type(first["dim"])) == ("attention", None, int)
    assert (last["kind"], last["head"], type(last["neuron"])) == ("ffn", None, int)
    assert [row["kind"] for row in document["agreement"]] == ["attention", "ffn", "both"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"values": 0}, "values is 0"),
        ({"of": "heads"}, "of is 'heads'"),
        ({"top": 48}, "of the 48 FFN neurons of layer 0, which leaves"),
    ],
)
def test_wrong_options_are_told(llama: ms.Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(ms.OptionError, match=message):
        llama.compare_query_ablation(attributed(llama), **options)


def test_the_result_of_another_model_is_refused(llama: ms.Model) -> None:
    other = open_tiny(next(f for f in FAMILIES if f.model_type == "gpt2").build())
    with pytest.raises(ms.OptionError, match="the result is of"):
        other.compare_query_ablation(attributed(llama))


def test_neurons_are_split_by_layer() -> None:
    value = pd.DataFrame({"layer": [0, 1, 1, 2], "neuron": [5, 5, 6, 7]})
    query = pd.DataFrame({"layer": [0, 0, 1, 1], "neuron": [5, 6, 5, 9]})
    assert split_by_layer(value, query, 4).to_dict("list") == {
        "layer": [0, 1, 2, 3],
        "query_only": [1, 1, 0, 0],
        "query_value": [1, 1, 0, 0],
        "value_only": [0, 1, 1, 0],
    }


def test_the_split_of_a_result_counts_every_neuron_once(llama: ms.Model) -> None:
    result = attributed(llama)
    split = llama.query_split(result, values=10, top=30)
    assert split["layer"].tolist() == list(range(llama.n_layers))
    assert split["query_only"].sum() + split["query_value"].sum() == 30
    assert split["value_only"].sum() + split["query_value"].sum() == 30
    query = llama.query(result, values=10, top=30).of_attention.ffn_neurons
    shared = set(zip(query["layer"], query["neuron"], strict=True)) & set(
        zip(result.ffn_neurons["layer"].head(30), result.ffn_neurons["neuron"].head(30), strict=True)
    )
    assert split["query_value"].sum() == len(shared) > 0


# On each push tests/cli/test_query_ablation.py removes the same neurons by the command line.
@pytest.mark.nightly
@pytest.mark.demo
def test_without_its_query_neurons_the_demo_model_does_not_know_the_capital(demo: ms.Model) -> None:
    result = demo.attribute(
        "The capital of Japan is the city of",
        " Tokyo",
        top=30,
        effects=False,
        suppressing=False,
        query=False,
    )
    found = demo.compare_query_ablation(result, top=1000, seeds=3)
    assert len(found.ablation.parts) == 1000
    assert found.ablation.after["probability"] < 0.01 * found.ablation.controls["probability"].min()
    attention = found.agreement.set_index("kind").loc["attention"]
    assert attention["measured"] < -0.5
    assert attention["predicted"] < -0.5
    assert abs(attention["controls"]) < 0.2
