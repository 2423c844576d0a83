"""Every number of an attribution beside brute force in float64, on families that differ where it matters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import PreTrainedModel

import mnemoscope as ms
from mnemoscope.model.families.registry import FAMILIES, Family
from oracle.ablating import log_p_without
from oracle.checks import (
    IDS,
    LARGEST_ERROR,
    TARGET,
    check_ablations,
    check_bounds,
    check_everything,
    check_objectives,
    check_prompts_together,
    inputs_of,
    prompt,
    sample,
)
from oracle.scores import Oracle
from support import chosen_on_push, open_tiny

CHOSEN = {
    "llama": "grouped heads",
    "gpt2": "tied head",
    "opt": "tokens in one row, ReLU",
    "gpt_neox": "parallel blocks",
    "gptj": "parallel blocks",
    "falcon": "ALiBi, sequential blocks, biases",
    "mistral": "sliding window",
    "gemma2": "soft-caps of scores and logits, pre- and post-norms",
    "gemma3_text": "pre- and post-norms, sliding window",
    "olmo2": "post-norms alone",
    "bitnet": "norms before both projections",
    "granite": "multipliers, biases",
    "cohere": "parallel blocks, scaled logits, query/key norms",
    "mixtral": "experts",
    "qwen2_moe": "experts, a gated shared one, a dense layer",
    "deepseek_v3": "latent attention, experts in groups, shared ones, a dense layer",
    "gpt_oss": "experts with biases, attention sinks, sliding window",
}
REPRESENTATIVES = [family for family in FAMILIES if CHOSEN.get(family.model_type) == family.variant]
# GPT-J is parallel as GPT-NeoX is; Mistral and Gemma 3 have windows as Gemma 2 and GPT-OSS have; Mixtral's
# experts are Qwen2-MoE's without the shared one.
ON_PUSH = (
    "llama",
    "gpt2",
    "opt",
    "gpt_neox",
    "falcon",
    "gemma2",
    "olmo2",
    "bitnet",
    "granite",
    "cohere",
    "qwen2_moe",
    "deepseek_v3",
    "gpt_oss",
)
WITH_EXPERTS = ("mixtral", "qwen2_moe", "deepseek_v3", "gpt_oss")
Pair = tuple[PreTrainedModel, ms.Model]


@pytest.fixture(scope="module", params=chosen_on_push(REPRESENTATIVES, *ON_PUSH))
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def pair(family: Family) -> Pair:
    """A model for the oracle, and a copy of it for the package."""
    model = family.build()
    return model, open_tiny(copy.deepcopy(model))


@pytest.fixture(scope="module")
def oracle(pair: Pair) -> Oracle:
    """One prompt of seven tokens, for every test that needs no other."""
    return Oracle(pair[0], IDS[:7], [TARGET])


def part(kind: str, layer: int, index: int, d_head: int) -> Any:
    if kind == "ffn":
        return ms.FFNNeuron(layer, index)
    return ms.Head(layer, index) if kind == "head" else ms.AttentionNeuron(layer, *divmod(index, d_head))


def test_every_configuration_named_here_is_there() -> None:
    assert len(REPRESENTATIVES) == len(CHOSEN)


@pytest.mark.parametrize("n_tokens", [1, pytest.param(3, marks=pytest.mark.nightly), 20])
def test_every_score_is_that_of_the_oracle(pair: Pair, n_tokens: int) -> None:
    check_everything(*pair, IDS[:n_tokens])


# Rows of a batch differ by positions, windows, and which experts run.
@pytest.mark.parametrize(
    "family", chosen_on_push(REPRESENTATIVES, "opt", "falcon", "gemma2", "gpt_oss"), indirect=True
)
def test_prompts_of_unequal_lengths_together_are_each_that_of_the_prompt_alone(pair: Pair) -> None:
    check_prompts_together(*pair, [IDS[:3], IDS[3:4], IDS, IDS[2:9]])


# Objectives are computed behind the readout, whose forms these have.
@pytest.mark.parametrize(
    "family", chosen_on_push(REPRESENTATIVES, "gpt2", "gemma2", "granite", "cohere"), indirect=True
)
def test_log_odds_and_several_targets(pair: Pair) -> None:
    check_objectives(*pair, IDS[:7])


def test_intervals_and_their_sums_hold_the_scores(pair: Pair, oracle: Oracle) -> None:
    check_bounds(pair[1], oracle)


@pytest.mark.parametrize("positions", [None, pytest.param([-1], marks=pytest.mark.nightly), [0, 2]])
def test_what_ablating_each_part_really_does(
    family: Family, pair: Pair, oracle: Oracle, positions: list[int] | None
) -> None:
    if positions is not None and family.model_type in WITH_EXPERTS:
        pytest.skip("the oracle silences an expert's neuron by its weights, so at every position")
    d_head = oracle.attention_neurons.shape[2]
    check_ablations(pair[1], oracle, lambda *drawn: part(*drawn, d_head), positions)


def test_what_ablating_parts_together_does_to_the_whole_prediction(pair: Pair, oracle: Oracle) -> None:
    drawn = sample(oracle, of_each_layer=1)
    after = log_p_without(oracle, [each for one in drawn for each in inputs_of(oracle, *one)])
    parts = [part(*one, oracle.attention_neurons.shape[2]) for one in drawn]
    with pair[1].ablate(parts):
        table = pair[1].predict(prompt(oracle.ids), top=len(after)).table
    assert (
        after[table["id"].to_numpy(copy=True)].numpy() - table["log_probability"]
    ).abs().max() <= LARGEST_ERROR
    found = pair[1].compare_ablation(prompt(oracle.ids), TARGET, parts, seeds=1)
    assert found.before["log_probability"] == pytest.approx(oracle.value, abs=LARGEST_ERROR)
    assert found.after["log_probability"] == pytest.approx(float(after[TARGET]), abs=LARGEST_ERROR)
    assert found.before["reciprocal_rank"] == pytest.approx(1 / rank(oracle.log_p))
    assert found.after["reciprocal_rank"] == pytest.approx(1 / rank(after))


def rank(log_p: Any) -> int:
    return 1 + int((log_p > log_p[TARGET]).sum())
