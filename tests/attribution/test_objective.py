"""Sets of answers and log-odds: against the model's own logits, one another, and single targets."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

import mnemoscope as ms
from mnemoscope.attribution.methods.registry import method
from mnemoscope.errors import OptionError, TargetError
from mnemoscope.model.gradients import total_effects
from mnemoscope.model.objective import Objective
from support import TINY_FEW, built, open_tiny, words

PROMPT = words(5, 17, 80, 33)
A, B, C, D = 40, 7, 66, 23
KEYS = {"heads": ["layer", "head"], "layers": ["layer", "kind"]}
ASKED = [
    {"target": [A, B]},
    {"target": A, "against": B},
    {"target": [A, D], "against": [B, C]},
]


def objective(asked: dict[str, Any]) -> Objective:
    """The objective that a call asks for."""
    target, against = asked["target"], asked.get("against")
    sides = [(side,) if isinstance(side, int) else side and tuple(side) for side in (target, against)]
    return Objective(*sides)


# On more families tests/oracle/test_against_oracle has both.
@TINY_FEW
@pytest.mark.parametrize("asked", ASKED)
def test_scores_are_what_adding_the_part_does_to_the_models_logits(
    tiny: ms.Model, asked: dict[str, Any]
) -> None:
    result = tiny.attribute(PROMPT, **asked, top=6)
    prediction = tiny.method_input(PROMPT, A).prediction
    readout, activations = prediction.readout, prediction.activations

    def value(state: torch.Tensor) -> float:
        return float(objective(asked).value(readout.log_probabilities(state[None])[0].double()))

    structure = tiny.language_model.structure
    ffn = prediction.shared.ffn_neurons
    for table in (result.ffn_neurons, result.suppressing_ffn_neurons):
        for row in table.itertuples():
            state = (
                activations.resid_pre[row.layer] if structure.parallel else activations.resid_mid[row.layer]
            )
            column = torch.tensor([row.neuron])
            part = ffn.columns(row.layer, column)[0] * ffn.coefficients(row.layer)[row.neuron, 0]
            assert row.direct == pytest.approx(value(state + part) - value(state), abs=2e-5)
    heads = prediction.shared.heads
    for row in result.heads.itertuples():
        part = heads.columns(row.layer, torch.tensor([row.head]))[0] * heads.coefficients(row.layer)[row.head]
        state = activations.resid_pre[row.layer]
        assert row.direct == pytest.approx(value(state + part) - value(state), abs=2e-5)


@TINY_FEW
@pytest.mark.parametrize("asked", ASKED)
def test_certified_lists_equal_exhaustive_ones(tiny: ms.Model, asked: dict[str, Any]) -> None:
    certified = tiny.attribute(PROMPT, **asked, top=12)
    exhaustive = tiny.attribute(PROMPT, **asked, top=12, neurons="all")
    for name, table in certified.tables().items():
        if not name.endswith("_scores"):
            assert table.equals(exhaustive.tables()[name]), name


@pytest.mark.parametrize("asked", ASKED)
def test_intervals_hold_the_exact_scores(llama: ms.Model, asked: dict[str, Any]) -> None:
    exhaustive = llama.attribute(PROMPT, **asked, top=2, neurons="all")
    intervals = llama.attribute(PROMPT, **asked, top=2, neurons="bounds")
    for name in ("ffn_scores", "attention_scores"):
        exact, bounds = exhaustive.tables()[name], intervals.tables()[name]
        assert (bounds["lower"] <= exact["lower"]).all()
        assert (bounds["upper"] >= exact["upper"]).all()
        if "against" in asked:  # nothing is left to be bounded but rounding
            assert (bounds["upper"] - bounds["lower"]).max() < 1e-4


@pytest.mark.parametrize("asked", ASKED)
def test_layer_scores_sum_to_the_rise_of_the_objective(llama: ms.Model, asked: dict[str, Any]) -> None:
    result = llama.attribute(PROMPT, **asked, top=2)
    assert result.telescoping_error is not None
    assert abs(result.telescoping_error) < 1e-4
    assert result.targets.value == pytest.approx(float(objective(asked).value(_log_p(llama))), abs=1e-5)
    rise = result.targets.value - result.value_of_embeddings
    assert result.layers["direct"].sum() == pytest.approx(rise, abs=1e-4)


def test_a_set_of_one_is_the_single_target(tiny: ms.Model) -> None:
    alone, listed = tiny.attribute(PROMPT, A, top=5), tiny.attribute(PROMPT, [A], top=5)
    assert alone.targets == listed.targets
    for name, table in alone.tables().items():
        pd.testing.assert_frame_equal(table, listed.tables()[name], check_exact=True)


def test_log_odds_are_the_difference_of_two_log_probabilities(tiny: ms.Model) -> None:
    contrast, first, second = (
        tiny.attribute(PROMPT, target, against=against, top=4, neurons="all", query=False)
        for target, against in ((A, B), (A, None), (B, None))
    )
    for name in ("ffn_scores", "attention_scores"):
        difference = first.tables()[name]["lower"] - second.tables()[name]["lower"]
        assert contrast.tables()[name]["lower"].to_numpy() == pytest.approx(difference.to_numpy(), abs=1e-4)
    for name in ("layers", "heads"):
        of = [
            result.tables()[name].set_index(KEYS[name])[["direct", "total"]].sort_index()
            for result in (contrast, first, second)
        ]
        assert of[0].to_numpy() == pytest.approx((of[1] - of[2]).to_numpy(), abs=1e-4)


def test_log_odds_of_one_token_over_another_add_up(llama: ms.Model) -> None:
    """Linear: neurons sum to their head, and all of a layer's FFN neurons to the layer."""
    result = llama.attribute(PROMPT, A, against=B, top=1, neurons="all", query=False)
    neurons = result.attention_scores.groupby(["layer", "head"])["lower"].sum()
    heads = result.heads.set_index(["layer", "head"])["direct"].sort_index()
    assert neurons.to_numpy() == pytest.approx(heads.to_numpy(), abs=1e-4)
    layers = result.layers.set_index(["kind", "layer"])["direct"].sort_index()
    summed = result.ffn_scores.groupby("layer")["lower"].sum()
    assert summed.to_numpy() == pytest.approx(layers["ffn"].to_numpy(), abs=1e-4)
    alone = llama.attribute(PROMPT, A, top=1, neurons="all", query=False)
    summed = alone.ffn_scores.groupby("layer")["lower"].sum().to_numpy()
    ffn = alone.layers.set_index(["kind", "layer"])["direct"].sort_index()["ffn"]
    assert abs(summed - ffn.to_numpy()).max() > 1e-3  # which log probabilities do not


def test_log_odds_need_neither_the_vocabulary_nor_its_geometry() -> None:
    model = open_tiny(built("llama"))
    model.attribute(PROMPT, A, against=B, top=3)
    assert "geometry" not in vars(model)
    prediction = model.method_input(PROMPT, A, against=B).prediction
    assert prediction.scorer().readout.unembedding.shape[0] == 2
    assert prediction.predicted.log_probabilities.shape[1] == 2


@pytest.mark.parametrize("asked", ASKED)
def test_totals_are_the_gradient_of_the_objective(llama: ms.Model, asked: dict[str, Any]) -> None:
    result = llama.attribute(PROMPT, **asked, top=5, by="total")
    row = result.ffn_neurons.iloc[0]
    opened, ids = llama.language_model, llama.predict(PROMPT).token_ids
    found = total_effects(opened.model, opened.structure, ids, objective(asked).value)
    assert row["total"] == pytest.approx(float(found.ffn.sum(1).max()), abs=1e-6)
    part, step = ms.FFNNeuron(int(row["layer"]), int(row["neuron"])), 0.01
    values = []
    for factor in (1 + step, 1 - step):
        with llama.ablate([part], factor=factor):
            values.append(llama.attribute(PROMPT, **asked, top=1, query=False).targets.value)
    assert row["total"] == pytest.approx((values[0] - values[1]) / (2 * step), abs=2e-3, rel=1e-2)


@pytest.mark.parametrize("kind", ["ffn", "attention"])
@pytest.mark.parametrize("asked", ASKED)
def test_methods_answer_what_they_are_asked(llama: ms.Model, asked: dict[str, Any], kind: str) -> None:
    method_input = llama.method_input(PROMPT, **asked, kind=kind)
    wanted = objective(asked)
    single = llama.method_input(PROMPT, A, kind=kind)
    readout, predicted, grid = single.prediction.readout, single.prediction.predicted, single.grid
    columns = torch.cat([grid.columns(i, None) * grid.coefficients(i) for i in range(grid.n_layers)])
    added = readout.project(readout.fold(columns)).double()
    states = predicted.log_probabilities.double()[grid.base.repeat_interleave(grid.n_columns)]
    before, after = wanted.value(states), wanted.value((states + added).log_softmax(-1))
    expected = {
        "log-probability-increase": after - before,
        "log-probability": wanted.value(added.log_softmax(-1)),
    }
    if wanted.against is None:
        expected["probability-increase"] = after.exp() - before.exp()
    for name, scores in expected.items():
        index, found = method(name).top(method_input, 7)
        assert found.tolist() == pytest.approx(scores.topk(7).values.tolist(), abs=2e-5), name
        assert found.tolist() == pytest.approx(scores[index].tolist(), abs=2e-5), name
    index, drops = method("single-ablation").top(method_input, 2)
    whole = float(wanted.value(_log_p(llama)))
    for place, drop in zip(index.tolist(), drops.tolist(), strict=True):
        layer, column = divmod(place, grid.n_columns)
        d_head = llama.language_model.structure.d_head
        part = (
            ms.FFNNeuron(layer, column)
            if kind == "ffn"
            else ms.AttentionNeuron(layer, *divmod(column, d_head))
        )
        with llama.ablate([part]):
            assert drop == pytest.approx(whole - float(wanted.value(_log_p(llama))), abs=1e-4)
    gradients = method("integrated-gradients").scores(method_input, torch.arange(grid.size))
    assert gradients is not None
    assert bool(gradients.isfinite().all())


def _log_p(model: ms.Model) -> torch.Tensor:
    table = model.predict(PROMPT, top=model.n_vocabulary).table.sort_values("id")
    return torch.tensor(table["log_probability"].to_numpy())


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", ["rank", "coefficient-over-rank"])
def test_ranks_are_of_one_token(llama: ms.Model, asked: dict[str, Any], name: str) -> None:
    with pytest.raises(OptionError, match="one target token"):
        llama.rank_neurons(PROMPT, **asked, method=name)


def test_a_probability_increase_is_not_of_log_odds(llama: ms.Model) -> None:
    with pytest.raises(OptionError, match="log-odds"):
        llama.rank_neurons(PROMPT, A, against=B, method="probability-increase")


def test_query_neurons_and_links_follow(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, A, against=[B, C], top=30)
    assert result.query_neurons is not None
    value_neurons = result.query_neurons.of_ffn.value_neurons.set_index(["layer", "neuron"])["direct"]
    scores = result.ffn_neurons.set_index(["layer", "neuron"])["direct"]
    assert value_neurons.drop_duplicates().sort_values().tolist() == sorted(scores.tolist())
    links = llama.query_graph(result, values=2, width=2)
    assert links.to_json()["targets"] == result.to_json()["targets"]
    assert links.to_networkx().graph["target"] == result.targets.text


def test_what_needs_one_target_says_so(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, A, against=B, top=5)
    assert result.to_json()["target"] is None
    with pytest.raises(OptionError, match=r"one target token, and the result is of 'w40' over 'w7'"):
        llama.compare_query_ablation(result)
    with pytest.raises(OptionError, match="one target token"):
        _ = result.target
    with pytest.raises(TargetError, match="one token's text or id"):
        llama.compare_ablation(PROMPT, [A, B], result.ffn_neurons)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target": []}, "the list for target is empty"),
        ({"target": A, "against": ()}, "the list for against is empty"),
        ({"target": [A, B, A]}, "given twice as target"),
        ({"target": [A, " w40"]}, "given twice"),
        ({"target": A, "against": [B, B]}, r"'w7' \(id 7\) is given twice as against"),
        ({"target": [A, B], "against": [C, B]}, r"'w7' \(id 7\) is a target and among those"),
        ({"target": [A, " w3 w4"]}, "is 2 tokens"),
        ({"target": [A, 10**6]}, "not in the vocabulary"),
    ],
)
def test_targets_that_make_no_sense_are_told(llama: ms.Model, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        llama.attribute(PROMPT, **asked)


def test_without_a_target_the_likeliest_token_is_compared(llama: ms.Model) -> None:
    first, second = llama.predict(PROMPT, top=2).table["id"]
    result = llama.attribute(PROMPT, against=int(second), top=1)
    assert [target.id for target in result.targets.answers] == [first]
    assert result.targets.value > 0
    with pytest.raises(TargetError, match="take it out of one of the two"):
        llama.attribute(PROMPT, against=int(first))
