"""Sizes and settings at the edges beside the oracle: large and padded vocabularies, tails, long factors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import mnemoscope as ms
from oracle.checks import (
    EVERYTHING,
    IDS,
    LARGEST_ERROR,
    TARGET,
    TIE,
    check,
    check_bounds,
    check_everything,
    check_prompts_together,
    prompt,
)
from oracle.scores import Oracle
from oracle.tables import compared, outside
from support import built, open_tiny, word_tokenizer

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "vocab_size": 97,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def random_llama(**settings: Any) -> PreTrainedModel:
    """A Llama with weights drawn as wide as trained ones act."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**TINY, **settings})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 1.5 / weight.shape[1] ** 0.5)
    return model


@pytest.fixture(
    scope="module", params=[*(pytest.param(scale, marks=pytest.mark.nightly) for scale in (1.0, 4.0)), 8.0]
)
def large(request: pytest.FixtureRequest) -> tuple[Oracle, ms.Model]:
    """A vocabulary as large as Gemma 3's, with a head that spreads the logits more or less."""
    model = random_llama(vocab_size=262_144)
    with torch.no_grad():
        model.lm_head.weight.mul_(request.param)
    return Oracle(model, IDS[:3], [TARGET]), open_tiny(copy.deepcopy(model))


def test_scores_over_a_large_vocabulary(large: tuple[Oracle, ms.Model]) -> None:
    oracle, opened = large
    result = opened.attribute(prompt(oracle.ids), TARGET, top=EVERYTHING, neurons="all", query=False)
    check(compared(result, oracle))


def test_intervals_over_a_large_vocabulary(large: tuple[Oracle, ms.Model]) -> None:
    oracle, opened = large
    check_bounds(opened, oracle)


def test_no_list_passes_over_a_silent_neuron_to_name_a_harmful_one() -> None:
    model = built("opt")
    result = open_tiny(copy.deepcopy(model)).attribute(prompt(IDS[:7]), TARGET, top=EVERYTHING)
    oracle = Oracle(model, IDS[:7], [TARGET])
    for sign, table in ((1, result.ffn_neurons), (-1, result.suppressing_ffn_neurons)):
        best = (torch.cat(oracle.ffn_neurons) * sign).sort(descending=True).values[: len(table)]
        assert (torch.tensor(table["direct"].to_numpy()) * sign - best).abs().max() <= TIE


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_a_vocabulary_larger_than_the_tokenizers(family: str) -> None:
    model = built(family)
    opened = ms.load((copy.deepcopy(model), word_tokenizer(90)))
    check_everything(model, opened, IDS[:7])


def test_a_window_shorter_than_the_prompt_alone_and_in_a_batch() -> None:
    model = built("mistral")
    assert model.config.sliding_window < len(IDS)
    opened = open_tiny(copy.deepcopy(model))
    check_everything(model, opened, IDS)
    check_prompts_together(model, opened, [IDS, IDS[:2]])


ROTARY = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.5, 2.0, 2.5],
        "long_factor": [4.0, 6.0, 8.0, 10.0],
        "original_max_position_embeddings": 16,
        "factor": 4.0,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
}


# Factors of the other two are fixed numbers too, as those of YaRN.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("linear", marks=pytest.mark.nightly),
        pytest.param("llama3", marks=pytest.mark.nightly),
        "yarn",
        "longrope",
        "dynamic",
    ],
)
def test_rotary_factors_that_depend_on_length(kind: str) -> None:
    longest = 16 if kind == "dynamic" else 64
    rotary = {**ROTARY[kind], "rope_theta": 10_000.0}
    model = random_llama(max_position_embeddings=longest, rope_parameters=rotary)
    short, long = IDS[:3], IDS
    for ids in (short, long):
        # Each with a copy of its own: dynamic factors are kept from the longest prompt seen.
        check_everything(copy.deepcopy(model), open_tiny(copy.deepcopy(model)), ids)
    texts = [prompt(ids) for ids in (short, long)]
    results = open_tiny(copy.deepcopy(model)).attribute_many(texts, [TARGET] * 2, top=EVERYTHING)
    for ids, result in zip((short, long), results, strict=True):
        check(compared(result, Oracle(model, ids, [TARGET])))


@pytest.mark.parametrize(("seed", "head_scale", "common"), [(1, 10, 10), (45, 30, 100), (59, 30, 100)])
def test_tails_of_probabilities_that_underflow(seed: int, head_scale: float, common: float) -> None:
    """Scores of many nats, relative to the largest: float32 keeps 7 digits of a logit."""
    model = random_llama(vocab_size=40, hidden_size=8, intermediate_size=48)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 1.5 / weight.shape[1] ** 0.5)
        model.lm_head.weight.mul_(head_scale)
        model.lm_head.weight.add_(common * torch.randn(8))
    ids, target = (5, 17, 30, 33), 20
    opened = open_tiny(copy.deepcopy(model))
    result = opened.attribute(prompt(ids), target, top=5, neurons="bounds", effects=False)
    oracle = Oracle(model, ids, [target])
    largest = max(1.0, float(oracle.log_p.abs().max()), *(float(s.abs().max()) for s in oracle.ffn_neurons))
    allowed = max(LARGEST_ERROR, 3e-6 * largest)
    found = compared(result, oracle)
    errors = {name: error for name, error in found.errors.items() if not name.endswith("er")}
    assert max(errors.values()) <= allowed, (errors, largest)
    assert max(found.disorder.values()) <= allowed, (found.disorder, largest)
    assert outside(result.ffn_scores, "ffn_neurons", oracle) <= allowed
    assert outside(result.attention_scores, "attention_neurons", oracle) <= allowed
