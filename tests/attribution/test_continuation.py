"""Targets of several tokens: against the model's own logits, single tokens, and exhaustive sums."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import mnemoscope as ms
from cases import Case, make_case
from mnemoscope.attribution.continuation import SummedBounds, SummedScores, in_order, same_columns
from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.search import Pool, search
from mnemoscope.model.families.registry import Family
from mnemoscope.results.columns import SUMS, TOP_SUMS
from mnemoscope.results.parts import NeuronKind
from support import (
    FEW,
    TINY_FEW,
    WITH_EXPERTS,
    built,
    check_alike,
    chosen_on_push,
    open_tiny,
    opened_once,
    with_examples,
    words,
)

PROMPT_IDS, TARGET_IDS = (5, 17, 80, 33), (40, 7, 66)
PROMPT, TARGET = words(*PROMPT_IDS), f" {words(*TARGET_IDS)}"
NAMES = {
    "layers": ["layer", "kind"],
    "heads": ["layer", "head"],
    "ffn_neurons": ["layer", "neuron"],
    "attention_neurons_summed": ["layer", "head", "dim"],
}


@pytest.fixture(scope="module")
def mixtral() -> ms.Model:
    """A tiny mixture of experts, of whose neurons each token uses others."""
    return open_tiny(built("mixtral"))


def own_log_probabilities(model: ms.Model) -> Tensor:
    """Of the target's tokens, by one forward pass of the transformers model over all of them."""
    ids = torch.tensor([[*PROMPT_IDS, *TARGET_IDS]])
    with torch.no_grad():
        log_p = model.language_model.model(input_ids=ids).logits[0].float().log_softmax(-1)
    before = range(len(PROMPT_IDS) - 1, ids.shape[1] - 1)
    return torch.stack([log_p[i, token] for i, token in zip(before, TARGET_IDS, strict=True)])


def test_the_log_probability_is_the_models_own(tiny: ms.Model) -> None:
    result = tiny.attribute_continuation(PROMPT, TARGET, top=3, query=False, effects=False)
    own = own_log_probabilities(tiny)
    assert result.tokens["id"].tolist() == list(TARGET_IDS)
    assert result.tokens["log_probability"].to_numpy() == pytest.approx(own.numpy(), abs=1e-4)
    assert result.log_probability == pytest.approx(float(own.sum()), abs=1e-4)
    if result.telescoping_error is None:
        assert tiny.language_model.structure.parallel
    else:
        rise = result.log_probability - result.value_of_embeddings
        assert result.layers["direct"].sum() == pytest.approx(rise, abs=1e-4)
        assert abs(result.telescoping_error) < 1e-4


@TINY_FEW
def test_each_token_is_attributed_as_it_is_alone(tiny: ms.Model) -> None:
    result = tiny.attribute_continuation(PROMPT, TARGET, top=5)
    for number, attribution in enumerate(result.attributions):
        before = (*PROMPT_IDS, *TARGET_IDS[:number])
        assert attribution.token_ids == before
        assert attribution.prompt == words(*before)
        check_alike(attribution, tiny.attribute(words(*before), TARGET_IDS[number], top=5))


@TINY_FEW
def test_sums_are_those_of_the_tokens(tiny: ms.Model) -> None:
    result = tiny.attribute_continuation(PROMPT, TARGET, top=5, query=False)
    for name in ("layers", "heads"):
        of_tokens = [
            getattr(attribution, name).set_index(NAMES[name])["direct"].sort_index()
            for attribution in result.attributions
        ]
        table = getattr(result, name).set_index(NAMES[name]).sort_index()
        sums = pd.concat(of_tokens, axis=1).sum(axis=1)
        assert table["direct"].to_numpy() == pytest.approx(sums.to_numpy(), abs=1e-5)
        for number, scores in enumerate(of_tokens):
            assert table[f"direct_{number}"].equals(scores.rename(f"direct_{number}"))
        assert getattr(result, name)["direct"].is_monotonic_decreasing
    coefficients = [f"coefficient_{number}" for number in range(len(TARGET_IDS))]
    for name in TOP_SUMS:
        table = getattr(result, name)
        each = table[[f"direct_{number}" for number in range(len(TARGET_IDS))]]
        assert table["direct"].to_numpy() == pytest.approx(each.sum(axis=1).to_numpy(), abs=1e-6)
        assert len(table) == 5
        assert set(coefficients) < set(table)


@pytest.mark.parametrize("kind", ["ffn", "attention"])
@pytest.mark.parametrize("family", chosen_on_push(WITH_EXPERTS, *FEW, "bitnet"))
def test_lists_of_sums_are_those_of_all_neurons(family: Family, kind: NeuronKind) -> None:
    model = opened_once(family)
    name = {"ffn": "ffn_neurons", "attention": "attention_neurons_summed"}[kind]
    result = model.attribute_continuation(PROMPT, TARGET, top=12, query=False, effects=False)
    questions = [
        model.method_input(words(*PROMPT_IDS, *TARGET_IDS[:number]), token, kind=kind)
        for number, token in enumerate(TARGET_IDS)
    ]
    every = [method_input.prediction.scorer().all(method_input.grid)[..., 0] for method_input in questions]
    sums = torch.stack(every).sum(0)
    found, lowest = getattr(result, name), getattr(result, f"suppressing_{name}")
    assert found["direct"].tolist() == pytest.approx(sums.flatten().topk(12).values.tolist(), abs=1e-5)
    assert lowest["direct"].tolist() == pytest.approx(
        sums.flatten().topk(12, largest=False).values.tolist(), abs=1e-5
    )
    d_head = model.language_model.structure.d_head
    for table in (found, lowest):
        column = table["neuron"] if kind == "ffn" else table["head"] * d_head + table["dim"]
        for number, (method_input, scores) in enumerate(zip(questions, every, strict=True)):
            index = torch.tensor((table["layer"] * method_input.grid.n_columns + column).to_numpy())
            exact = scores.flatten()[index]
            assert table[f"direct_{number}"].to_numpy() == pytest.approx(exact.numpy(), abs=1e-5)
            own = method_input.grid.values_of(index)
            assert table[f"coefficient_{number}"].to_numpy() == pytest.approx(own.numpy(), abs=1e-4)
    assert result.costs[name].exact <= result.costs[name].parts


def test_experts_of_all_tokens_take_part(mixtral: ms.Model) -> None:
    result = mixtral.attribute_continuation(PROMPT, TARGET, top=40, query=False, effects=False)
    asked = [len(attribution.ffn_neurons) for attribution in result.attributions]
    assert result.costs["ffn_neurons"].parts > max(
        attribution.costs["ffn_neurons"].parts for attribution in result.attributions
    )
    assert min(asked) == len(result.ffn_neurons) == 40
    silent = (result.ffn_neurons[["coefficient_0", "coefficient_1", "coefficient_2"]] == 0).any(axis=1)
    assert silent.any()
    assert (result.ffn_neurons["expert"] >= 0).all()


def test_promoted_tokens_have_the_sign_of_the_largest_score(llama: ms.Model) -> None:
    table = llama.attribute_continuation(PROMPT, TARGET, top=40, query=False, effects=False).ffn_neurons
    flipped = 0
    for row in table.to_dict("records"):
        largest = max(range(len(TARGET_IDS)), key=lambda number, row=row: abs(row[f"direct_{number}"]))
        reading = llama.neuron_tokens(row["layer"], row["neuron"])
        sides = [token for token, _ in reading.promotes], [token for token, _ in reading.demotes]
        up, down = sides if row[f"coefficient_{largest}"] > 0 else sides[::-1]
        assert (row["promotes"], row["demotes"]) == (up, down)
        flipped += row[f"coefficient_{largest}"] * row["coefficient_0"] < 0
    assert flipped


def test_a_neuron_of_the_sum_need_not_be_in_any_list_of_a_token() -> None:
    """Why the lists of the tokens, put together, would not do."""
    model = open_tiny(built("gpt2"))
    result = model.attribute_continuation(PROMPT, TARGET, top=8, query=False, effects=False)
    listed = {
        place
        for attribution in result.attributions
        for place in attribution.ffn_neurons[["layer", "neuron"]].itertuples(index=False, name=None)
    }
    of_sums = result.ffn_neurons[["layer", "neuron"]].itertuples(index=False, name=None)
    assert set(of_sums) - listed


def cases_of(seed: int, n_cases: int, **how: object) -> list[Case]:
    """Predictions with the same columns and everything else of their own."""
    cases = [make_case(seed + number, **how) for number in range(n_cases)]  # pyright: ignore[reportArgumentType]
    return [dataclasses.replace(case, columns=cases[0].columns) for case in cases]


def grids_of(cases: list[Case], active: float) -> list[Grid]:
    """Their grids, in each of which other columns take part."""
    if active == 1:
        return [case.grid for case in cases]
    generator = torch.Generator().manual_seed(3)
    grids = []
    for case in cases:
        drawn = torch.rand(case.factors.shape[:2], generator=generator) < active
        drawn[0, 0] = True
        silent = dataclasses.replace(case, factors=case.factors * drawn[..., None])
        grids.append(dataclasses.replace(silent.grid, active=torch.nonzero(drawn)))
    return grids


several_cases = st.builds(
    cases_of,
    seed=st.integers(0, 10**6),
    n_cases=st.sampled_from([1, 2, 5]),
    n_coefficients=st.just(1),
    size=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    sharpness=st.sampled_from([0.01, 0.3, 2.0]),
    repeats=st.booleans(),
    soft_cap=st.sampled_from([None, 5.0]),
)


@with_examples(
    50,
    300,
    cases=several_cases,
    k=st.sampled_from([1, 3, 20, 1000]),
    active=st.sampled_from([1, 0.4]),
    tokens=st.sampled_from([(1, 8), (8, 60), (32, 1024)]),
    subtracted=st.sampled_from([(), (1,), (1, 4)]),
)
def test_the_certified_sums_are_the_best_of_all(
    cases: list[Case], k: int, active: float, tokens: tuple[int, int], subtracted: tuple[int, ...]
) -> None:
    grids = same_columns(grids_of(cases, active))
    signs = tuple(-1 if number in subtracted else 1 for number in range(len(cases)))
    scores = SummedScores(tuple(case.scorer() for case in cases), signs)

    def bounds(n_tokens: int) -> SummedBounds:
        return SummedBounds(tuple(case.bounder(n_tokens) for case in cases), signs)

    pools = [Pool(k, 1, 0, 1), Pool(k, -1, 0, 1)]
    search(grids, pools, bounds(tokens[0]), lambda: bounds(tokens[1]), scores)
    each = (case.scorer().all(grid).flatten() for case, grid in zip(cases, grids, strict=True))
    every = in_order(sign * scores for sign, scores in zip(signs, each, strict=True))
    present = grids[0].present
    for pool in pools:
        order = every[present].argsort(descending=pool.sign > 0, stable=True)[:k]
        found_index, found_score = pool.best()
        assert found_score.tolist() == every[present][order].tolist()
        assert found_index.tolist() == present[order].tolist()


def test_few_neurons_are_scored_exactly() -> None:
    cases = cases_of(3, 3, n_columns=2000, n_coefficients=1, size=0.05, sharpness=0.3)
    bounds = SummedBounds(tuple(case.bounder(32) for case in cases), (1, 1, 1))
    scores = SummedScores(tuple(case.scorer() for case in cases), (1, 1, 1))
    scored = search(tuple(c.grid for c in cases), [Pool(10, 1, 0, 1)], bounds, lambda: bounds, scores)
    assert len(scored) <= 100


def test_one_token_is_its_own_sum(llama: ms.Model) -> None:
    result = llama.attribute_continuation(PROMPT, " w40", top=6, query=False)
    alone = llama.attribute(PROMPT, 40, top=6, query=False)
    for name, names in NAMES.items():
        found, expected = getattr(result, name), getattr(alone, name)
        assert found[[*names, "direct"]].equals(expected[[*names, "direct"]])
    assert result.log_probability == alone.target.log_probability


def test_options_reach_the_tokens(llama: ms.Model) -> None:
    result = llama.attribute_continuation(
        PROMPT, TARGET, top=4, suppressing=False, query=False, neurons="all", effects=False
    )
    assert result.suppressing_ffn_neurons.empty
    assert list(result.suppressing_ffn_neurons) == list(result.ffn_neurons)
    assert result.attributions[2].query_neurons is None
    assert len(result.attributions[0].ffn_scores) == 144
    assert result.provenance.options["neurons"] == "all"


def test_json_has_the_tokens_the_sums_and_each_attribution(llama: ms.Model, tmp_path: Path) -> None:
    result = llama.attribute_continuation(PROMPT, TARGET, top=4, query=False)
    path = result.save(tmp_path / "city.json")
    found = json.loads(path.read_text())
    assert found["target"]["text"] == TARGET
    assert [token["id"] for token in found["target"]["tokens"]] == list(TARGET_IDS)
    assert found["target"]["log_probability"] == result.log_probability
    assert found["certified"] is True
    assert set(SUMS) < set(found)
    row, own = found["ffn_neurons"][0], result.ffn_neurons.iloc[0]
    assert row["direct_by_token"] == [own[f"direct_{number}"] for number in range(3)]
    assert row["coefficients"] == [own[f"coefficient_{number}"] for number in range(3)]
    assert set(row) == {"layer", "neuron", "direct", "direct_by_token", "coefficients", "promotes", "demotes"}
    assert set(found["layers"][0]) == {"layer", "kind", "direct", "direct_by_token"}
    assert [each["target"]["id"] for each in found["attributions"]] == list(TARGET_IDS)
    assert result.to_json() == llama.attribute_continuation(PROMPT, TARGET, top=4, query=False).to_json()
    with pytest.raises(ms.OutputError, match=r"name a file that ends in \.json, \.parquet, \.csv or \.html$"):
        result.save(tmp_path / "city.xlsx")


@pytest.mark.parametrize("ending", ["json", "parquet"])
@pytest.mark.parametrize("against", [None, " w40 w9 w12", " w9"])
def test_a_saved_result_is_read_back_whole(
    llama: ms.Model, tmp_path: Path, against: str | None, ending: str
) -> None:
    result = llama.attribute_continuation(PROMPT, TARGET, against=against, top=4)
    read = ms.ContinuationAttribution.load(result.save(tmp_path / f"city.{ending}"))
    assert read.to_json() == result.to_json()
    assert (read.targets, read.against_targets, read.costs) == (
        result.targets,
        result.against_targets,
        result.costs,
    )
    assert (read.value, read.telescoping_error) == (result.value, result.telescoping_error)
    assert read.provenance == result.provenance
    pairs = [(read, result), *zip(read.predictions, result.predictions, strict=True)]
    for found, kept in pairs:
        for name, table in kept.tables().items():
            pd.testing.assert_frame_equal(found.tables()[name], table, check_dtype=False)
    with pytest.raises(ms.OptionError, match="was read from a file"):
        read.attributions[0].query()


@pytest.mark.parametrize(
    ("prompt", "target", "options", "error", "message"),
    [
        (PROMPT, "", {}, ms.TargetError, "target is empty"),
        (PROMPT, " w40 nonsense", {}, ms.TargetError, "not in the model's vocabulary"),
        (
            PROMPT,
            "w40 w41",
            {},
            ms.TargetError,
            r"own tokens change .* becomes .*; begin the target with a space",
        ),
        (PROMPT, 1000, {}, ms.TargetError, "target id 1000 is not in the vocabulary"),
        (PROMPT, [40], {}, ms.TargetError, r"the target is \[40\]; give"),
        ("", TARGET, {}, ms.PromptError, "prompt is empty"),
        (words(*[5] * 63), TARGET, {}, ms.PromptError, "63 tokens and the target 3.* at most 64; .* by 1$"),
        (PROMPT, TARGET, {"by": "total"}, ms.OptionError, "sum of direct scores"),
        (PROMPT, TARGET, {"top": 0}, ms.OptionError, "top is 0"),
    ],
)
def test_what_makes_no_sense_is_told(
    llama: ms.Model, prompt: str, target: str, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        llama.attribute_continuation(prompt, target, **options)


def test_the_last_token_may_lie_beyond_the_context(llama: ms.Model) -> None:
    """It is only predicted: 62 tokens before a target of 3 are 64 that are read."""
    result = llama.attribute_continuation(words(*[5] * 62), TARGET, top=1, query=False, effects=False)
    assert len(result.attributions[-1].tokens) == 64


@pytest.mark.parametrize("asked", [{"target": [" w40 w7", " w9"]}, {"target": " w9", "against": " w40 w7"}])
def test_sets_and_log_odds_are_of_single_tokens(llama: ms.Model, asked: dict) -> None:
    with pytest.raises(
        ms.TargetError, match=r"the answer ' w40 w7' is 2 tokens \('w40', 'w7'\), and here an"
    ):
        llama.attribute(PROMPT, **asked)
