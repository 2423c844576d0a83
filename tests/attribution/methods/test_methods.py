"""Every method against its formula computed literally for every neuron."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.api.requests import predictions, target_spec
from mnemoscope.attribution.methods.base import MethodInput
from mnemoscope.attribution.methods.causal import _Search, parts_of
from mnemoscope.attribution.methods.gradients import IntegratedGradients
from mnemoscope.attribution.methods.registry import method, methods
from mnemoscope.intervention import side_effects
from mnemoscope.intervention.side_effects import Sensitivity
from mnemoscope.model.readout import capped
from mnemoscope.testing import backup_pair, planted_model
from support import built, open_tiny, words

PROMPT = words(5, 17, 80, 33)
TARGET = 40


MODELS = ("llama", "gpt2", "gpt_neox", "olmo2", "gemma2")


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> ms.Model:
    torch.manual_seed(0)
    return open_tiny(built(request.param))


@pytest.fixture(scope="module", params=["ffn", "attention"])
def method_input(model: ms.Model, request: pytest.FixtureRequest) -> MethodInput:
    return model.method_input(PROMPT, TARGET, kind=request.param)


def prediction_scale(method_input: MethodInput) -> Tensor:
    """What post-norms multiply each neuron by at the last position, `[n_neurons]` float64."""
    activations, n_columns = method_input.prediction.activations, method_input.grid.n_columns
    scale = activations.ffn_scale if method_input.kind == "ffn" else activations.attention_scale
    return scale.double().repeat_interleave(n_columns)


@pytest.fixture(scope="module")
def expected_scores(method_input: MethodInput) -> dict[str, Tensor]:
    """Methods a to h of every neuron, straight from their formulas, in float64."""
    prediction, grid = method_input.prediction, method_input.grid
    readout, predicted = prediction.readout, prediction.predicted
    base = (predicted.log_probabilities if predicted.logits is None else predicted.logits.before).double()
    columns = torch.cat([grid.columns(i, None) for i in range(grid.n_layers)]).double()
    columns *= prediction_scale(method_input)[:, None]
    m = torch.cat([grid.values(i)[:, 0] for i in range(grid.n_layers)]).double()
    scaled = readout.norm.centre(columns) * readout.norm.weight.double() * readout.scale.double()
    values = (m[:, None] * scaled) @ readout.unembedding.double().T
    states = base[grid.base.repeat_interleave(grid.n_columns)]

    def log_p(uncapped: Tensor) -> Tensor:
        return torch.log_softmax(capped(uncapped, readout.soft_cap), dim=-1)[:, TARGET]

    before = log_p(states)
    increase = log_p(states + values) - before
    rank = 1 + (values > values[:, TARGET, None]).sum(-1)
    norm = columns.norm(dim=-1)
    return {
        "log-probability-increase": increase,
        "log-probability": log_p(values),
        "probability-increase": (before + increase).exp() - before.exp(),
        "norm": norm,
        "coefficient": m.abs(),
        "rank": 1 / rank,
        "norm-times-coefficient": m.abs() * norm,
        "coefficient-over-rank": m.abs() / rank,
    }


STATIC = [
    "log-probability-increase",
    "log-probability",
    "probability-increase",
    "norm",
    "coefficient",
    "rank",
    "norm-times-coefficient",
    "coefficient-over-rank",
]


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("k", [1, 12])
def test_static_methods_are_their_formulas(
    method_input: MethodInput, expected_scores: dict[str, Tensor], name: str, k: int
) -> None:
    expected = expected_scores[name]
    index, scores = method(name).top(method_input, k)
    assert scores.tolist() == pytest.approx(expected.topk(k).values.tolist(), abs=1e-5)
    assert scores.tolist() == pytest.approx(expected[index].tolist(), abs=1e-5)
    some = torch.arange(3, method_input.grid.size, 7)
    found = method(name).scores(method_input, some)
    assert found is not None
    assert found.tolist() == pytest.approx(expected[some].tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ["rank", "norm"])
def test_ties_are_ordered_by_index(method_input: MethodInput, name: str) -> None:
    index, scores = method(name).top(method_input, method_input.grid.size)
    pairs = [(-score, place) for score, place in zip(scores.tolist(), index.tolist(), strict=True)]
    assert pairs == sorted(pairs)
    assert sorted(index.tolist()) == list(range(method_input.grid.size))


def log_p(model: ms.Model, method_input: MethodInput, index: int, factor: float) -> float:
    with model.ablate(parts_of(method_input, torch.tensor([index])), factor=factor):
        return _value(model)


def _value(model: ms.Model) -> float:
    table = model.predict(PROMPT, top=model.n_vocabulary).table
    return float(table.loc[table["id"] == TARGET, "log_probability"].iloc[0])


def test_activation_gradient_is_the_slope_of_removal(model: ms.Model, method_input: MethodInput) -> None:
    scores = method("activation-gradient").scores(method_input, torch.arange(method_input.grid.size))
    assert scores is not None
    for index in (0, 50, method_input.grid.size - 1):
        step = 0.02
        up, down = (log_p(model, method_input, index, 1 + sign * step) for sign in (1, -1))
        assert float(scores[index]) == pytest.approx((up - down) / (2 * step), abs=2e-3, rel=1e-2)


def test_activation_gradient_at_the_last_position(model: ms.Model, method_input: MethodInput) -> None:
    last = method("activation-gradient-last").scores(method_input, torch.arange(method_input.grid.size))
    assert last is not None
    part = parts_of(method_input, torch.tensor([50]))
    values = []
    for factor in (1.02, 0.98):
        with model.ablate(part, factor=factor, positions=[-1]):
            values.append(_value(model))
    assert float(last[50]) == pytest.approx((values[0] - values[1]) / 0.04, abs=2e-3, rel=1e-2)


def test_integrated_gradients_sum_to_what_removing_the_layer_does(
    model: ms.Model, method_input: MethodInput
) -> None:
    fine = IntegratedGradients()
    fine.n_steps = 4000
    scores = fine.all(method_input).view(method_input.grid.n_layers, -1)
    for layer in range(method_input.grid.n_layers):
        every = torch.arange(layer * method_input.grid.n_columns, (layer + 1) * method_input.grid.n_columns)
        with model.ablate(parts_of(method_input, every)):
            removed = _value(model)
        assert float(scores[layer].sum()) == pytest.approx(_value(model) - removed, abs=2e-2)


def test_integrated_gradients_do_not_depend_on_the_budget(model: ms.Model) -> None:
    plenty = model.method_input(PROMPT, TARGET)
    little = model.method_input(PROMPT, TARGET, memory_budget=1)
    found, expected = (IntegratedGradients().all(q) for q in (little, plenty))
    assert torch.allclose(found, expected, atol=1e-5)


def test_single_ablation_is_the_truth(model: ms.Model, method_input: MethodInput) -> None:
    index, scores = method("single-ablation").top(method_input, 5)
    every = method("single-ablation").scores(method_input, torch.arange(method_input.grid.size))
    assert every is not None
    assert scores.tolist() == pytest.approx(every.topk(5).values.tolist(), abs=1e-5)
    for place, score in zip(index.tolist(), scores.tolist(), strict=True):
        assert score == pytest.approx(_value(model) - log_p(model, method_input, place, 0.0), abs=1e-4)


def greedy(model: ms.Model, method_input: MethodInput, k: int) -> list[int]:
    """Greedy search over every neuron, one forward pass at a time."""
    chosen: list[int] = []
    for _ in range(k):
        values = {}
        for index in range(method_input.grid.size):
            if index not in chosen:
                with model.ablate(parts_of(method_input, torch.tensor([*chosen, index]))):
                    values[index] = _value(model)
        chosen.append(min(values, key=values.__getitem__))
    return chosen


def test_verified_with_budget_for_everything_is_greedy_search(llama: ms.Model) -> None:
    method_input = llama.method_input(PROMPT, TARGET)
    index, gains = ms.Verified(budget=10_000).top(method_input, 2)
    assert index.tolist() == greedy(llama, method_input, 2)
    with llama.ablate(parts_of(method_input, index)):
        left = _value(llama)
    assert float(gains.sum()) == pytest.approx(_value(llama) - left, abs=1e-4)


def test_verified_takes_no_graph_of_the_whole_model_once_neurons_are_gone(llama: ms.Model) -> None:
    method_input = llama.method_input(PROMPT, TARGET)
    (prediction,) = predictions(
        llama.language_model, [target_spec(llama.language_model, PROMPT, TARGET)], graph=True
    )
    assert prediction.recorded is not None
    assert prediction.recorded.keep
    recorded = replace(method_input, prediction=prediction)
    every = method_input.grid.size
    for chosen in ([3], [3, every - 5]):
        orders = []
        for each in (method_input, recorded):
            search = _Search(each, 0.0, every)
            search.chosen = chosen
            orders.append(search.by_total())
        assert orders[0].equal(orders[1])


@pytest.mark.parametrize("greedily", [True, False])
def test_verified_keeps_to_its_budget(llama: ms.Model, greedily: bool) -> None:
    told: list[tuple[int, int]] = []
    method_input = llama.method_input(PROMPT, TARGET, report=lambda done, total: told.append((done, total)))
    index, _ = ms.Verified(budget=60, greedily=greedily).top(method_input, 5)
    assert len(index.unique()) == 5
    assert told[-1][0] == told[-1][1] <= 60


def test_verified_one_by_one_orders_its_shortlist_by_truth(llama: ms.Model) -> None:
    method_input = llama.method_input(PROMPT, TARGET)
    index, _ = ms.Verified(budget=10_000, greedily=False).top(method_input, 6)
    truth, _ = method("single-ablation").top(method_input, 6)
    assert index.tolist() == truth.tolist()


def test_specificity_spares_plain_text(llama: ms.Model) -> None:
    found = {}
    for weight in (0.0, 1e4):
        neurons = llama.rank_neurons(PROMPT, TARGET, method=ms.Verified(specificity=weight), top=5).neurons
        responses = llama.sensitivity().responses["ffn"][
            :, (neurons["layer"] * llama.d_ff + neurons["neuron"]).tolist()
        ]
        found[weight] = float(responses.sum(1).pow(2).mean())
    assert found[1e4] < 0.5 * found[0.0]


def test_expected_divergence_is_that_of_small_removals(
    llama: ms.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_effects, "N_DRAWS", 400)
    texts = llama.plain_text().texts
    responses = Sensitivity(llama.language_model, texts, budget=2**28).responses["ffn"]
    neurons = responses.pow(2).mean(0).topk(20).indices
    expected = float(responses[:, neurons].sum(1).pow(2).mean()) / 2
    step = 0.05
    with llama.ablate([ms.FFNNeuron(*divmod(i, llama.d_ff)) for i in neurons.tolist()], factor=1 - step):
        found = llama.plain_text().effect().kl / step**2
    # Draws leave out the first predictions of a text, so the two agree roughly.
    assert expected == pytest.approx(found, rel=0.35)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_responses_of_half_precision_are_those_of_its_weights_in_float32(family: str) -> None:
    half = built(family).to(torch.bfloat16)
    texts = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15]]
    of_half, of_wide = (
        Sensitivity(open_tiny(model).language_model, texts, budget=2**28).responses
        for model in (half, copy.deepcopy(half).float())
    )
    for kind, responses in of_wide.items():
        torch.testing.assert_close(of_half[kind], responses, rtol=1e-6, atol=1e-7)
        assert responses.abs().max() > 0.1


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["log-probability-increase", "verified"])
def test_planted_neurons_are_all_found(architecture: str, name: str) -> None:
    planted = planted_model(architecture)
    model = ms.load((planted.model, planted.tokenizer))
    for fact in planted.facts:
        neurons = model.rank_neurons(fact.prompt, fact.target, method=name, top=len(fact.ffn_neurons)).neurons
        found = set(zip(neurons["layer"], neurons["neuron"], strict=True))
        assert found == set(fact.ffn_neurons)


def test_verified_finds_both_of_a_pair_that_backs_each_other_up() -> None:
    planted = backup_pair()
    model, fact = ms.load((planted.model, planted.tokenizer)), planted.facts[0]
    neurons = model.rank_neurons(fact.prompt, fact.target, method="verified", top=6).neurons
    found = set(zip(neurons["layer"], neurons["neuron"], strict=True))
    assert set(fact.ffn_neurons) <= found


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=[] if name in ("llama", "gpt_neox") else pytest.mark.nightly)
        for name in MODELS
    ],
    indirect=True,
)
def test_every_method_gives_the_same_kind_of_result(model: ms.Model) -> None:
    for name, one in methods().items():
        for kind, columns in (("ffn", ["neuron"]), ("attention", ["head", "dim"])):
            found = model.rank_neurons(PROMPT, TARGET, method=name, kind=kind, top=4)
            assert list(found.neurons.columns) == ["layer", *columns, "score", "coefficient"]
            assert len(found.neurons) == 4
            assert found.neurons["score"].is_monotonic_decreasing or name.startswith("verified")
            assert found.method == one.label == name
            assert found.estimate.passes >= 0
            assert found.to_json()["neurons"][0]["layer"] == found.neurons["layer"][0]


def test_estimates_grow_with_the_work(llama: ms.Model) -> None:
    method_input = llama.method_input(PROMPT, TARGET)
    passes = {name: one.estimate(method_input, 10).passes for name, one in methods().items()}
    assert passes["norm"] == passes["log-probability-increase"] == 0
    assert passes["activation-gradient"] == 3
    assert passes["relp"] == 3
    assert passes["eap-ig"] == 1 + 3 * 5
    assert passes["integrated-gradients"] == 3 * 20 * 2
    assert passes["single-ablation"] == 48 * 2
    assert (
        ms.Verified(budget=500).estimate(method_input, 10).passes
        > ms.Verified(budget=100).estimate(method_input, 10).passes
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.rank_neurons(PROMPT, TARGET, method="nonsense"), "no method 'nonsense'"),
        (lambda m: m.rank_neurons(PROMPT, TARGET, kind="heads"), "kind is 'heads'"),
        (lambda m: m.rank_neurons(PROMPT, TARGET, top=0), "top is 0"),
        (lambda m: ms.Verified(budget=0), "budget is 0"),
        (lambda m: ms.Verified(specificity=-1.0), "specificity is -1"),
        (lambda m: ms.Verified(specificity=math.nan), "specificity is nan"),
    ],
)
def test_mistakes_are_told(llama: ms.Model, call: Callable[[ms.Model], object], message: str) -> None:
    with pytest.raises(ms.OptionError, match=message):
        call(llama)


THIRD_PARTY = '''
import torch
from mnemoscope.attribution.methods.base import MethodCost, Exhaustive

class First(Exhaustive):
    """The first neurons of the model."""
    name = "first"
    title = "first neurons"
    formula = "minus the index"
    def estimate(self, method_input, k):
        return MethodCost(0, 0)
    def all(self, method_input):
        return -torch.arange(method_input.grid.size).float()
'''


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that adds a method."""
    (tmp_path / "first_neurons.py").write_text(THIRD_PARTY)
    info = tmp_path / "first_neurons-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: first-neurons\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mnemoscope.methods]\nfirst = first_neurons:First\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    methods.cache_clear()
    yield info
    methods.cache_clear()
    sys.modules.pop("first_neurons", None)


def test_another_package_can_add_a_method(llama: ms.Model, third_party: Path) -> None:
    found = llama.rank_neurons(PROMPT, TARGET, method="first", top=3)
    assert found.neurons["neuron"].tolist() == [0, 1, 2]
    assert list(methods())[-1] == "first"


def test_a_method_that_cannot_be_loaded_is_told(third_party: Path) -> None:
    (third_party / "entry_points.txt").write_text("[mnemoscope.methods]\nfirst = first_neurons:Second\n")
    with pytest.raises(ms.OptionError, match="'first' of first_neurons:Second cannot be loaded"):
        methods()
    (third_party / "entry_points.txt").write_text("[mnemoscope.methods]\nfirst = math:sqrt\n")
    with pytest.raises(ms.OptionError, match="cannot be loaded"):
        methods()
    (third_party / "entry_points.txt").write_text("[mnemoscope.methods]\nfirst = builtins:dict\n")
    with pytest.raises(ms.OptionError, match="no method of a new name"):
        methods()
