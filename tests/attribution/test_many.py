"""Several prompts at once give what each gives alone."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import mnemoscope as ms
from mnemoscope.model.activations import batches
from mnemoscope.model.families.registry import Family
from support import FEW, N_WORDS, WITH_EXPERTS, check_alike, chosen_on_push, open_tiny, opened_once, words

PROMPTS = [words(5, 17, 80, 33), words(9), words(*range(3, 14)), words(61, 5, 5)]


@pytest.mark.parametrize("family", chosen_on_push(WITH_EXPERTS, *FEW, "opt"))
def test_results_are_those_of_one_prompt_at_a_time(family: Family) -> None:
    model = opened_once(family)
    targets = [" w40", None, [7, 66], 23]
    found = model.attribute_many(PROMPTS, targets, top=6)
    for result, prompt, target in zip(found, PROMPTS, targets, strict=True):
        assert result.prompt == prompt
        check_alike(result, model.attribute(prompt, target, top=6))


def test_passes_are_of_one_length_and_fit_a_budget(llama: ms.Model) -> None:
    structure, ids = llama.language_model.structure, [[5] * length for length in (4, 4, 1, 4, 3, 3, 3)]
    assert list(batches(ids, structure, 2**30)) == [range(2), range(2, 3), range(3, 4), range(4, 7)]
    assert list(batches(ids, structure, 1)) == [range(i, i + 1) for i in range(7)]
    assert list(batches([], structure, 1)) == []
    for result, alone in zip(
        llama.attribute_many(PROMPTS, top=3, query=False, memory_budget=1),
        (llama.attribute(prompt, top=3, query=False) for prompt in PROMPTS),
        strict=True,
    ):
        check_alike(result, alone)


def test_forward_passes_are_shared(llama: ms.Model) -> None:
    passes = []
    handle = llama.language_model.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    prompts = [*PROMPTS, *(words(first, 8, 9) for first in (1, 2, 3)), PROMPTS[0]]
    llama.prompt(prompts[0])  # the model is validated anew with the hook
    passes.clear()
    try:
        llama.attribute_many(prompts, top=3, query=False, effects=False)
    finally:
        handle.remove()
    # Of 1, 3, 4 and 11 tokens.
    assert passes == [1, 4, 2, 1]


POSITIONS = ([-1], [0], [-2, 0])


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
@pytest.mark.parametrize("family", chosen_on_push(WITH_EXPERTS, *FEW, "opt"))
def test_an_intervention_is_at_the_positions_of_each_prompt(family: Family, positions: list[int]) -> None:
    """Each prompt's own positions are changed, as transformers itself gives for the prompt alone."""
    model = opened_once(family)
    transformer = model.language_model.model
    prompts = [words(5, 17, 80, 33), words(9, 8), words(*range(3, 14)), words(61, 5)]
    parts = [ms.FFNNeuron(0, 3), ms.FFNNeuron(1, 5), ms.FFNNeuron(1, 6)]
    with model.ablate(parts, factor=3.0, positions=positions):
        found = model.attribute_many(prompts, [7] * 4, top=3, query=False, effects=False)
        for result in found:
            with torch.no_grad():
                own = transformer(torch.tensor([result.token_ids])).logits[0, -1].double()
            expected = own.log_softmax(-1)[7]
            assert result.targets.value == pytest.approx(float(expected), abs=1e-5)


def test_a_position_that_a_prompt_does_not_have_is_refused(llama: ms.Model) -> None:
    with (
        llama.ablate([ms.FFNNeuron(0, 3)], positions=[3]),
        pytest.raises(ms.OptionError, match="position 3 is outside the prompt of 1 tokens"),
    ):
        llama.attribute_many(PROMPTS, top=3, query=False, effects=False)


@pytest.mark.parametrize("rope_type", ["longrope", "dynamic"])
def test_rotary_factors_that_depend_on_the_length_are_those_of_each_prompt(rope_type: str) -> None:
    """Each value is that of a model that has run nothing else, whatever ran before and beside it."""
    parameters = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0}
    if rope_type == "longrope":
        factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
        parameters |= factors | {"original_max_position_embeddings": 16}
    config = LlamaConfig(
        vocab_size=N_WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64 if rope_type == "longrope" else 16, initializer_range=0.3,
        rope_parameters=parameters,
    )  # fmt: skip
    torch.manual_seed(0)
    fresh = LlamaForCausalLM(config).eval()
    model = open_tiny(copy.deepcopy(fresh))
    lengths = (20, 40, 3, 16, 30)
    prompts = [words(*range(3, 3 + length)) for length in lengths]
    found = model.attribute_many(prompts, [7] * len(prompts), top=3)
    singles = [model.attribute(prompt, 7, top=3) for prompt in reversed(prompts)]
    for result, single in zip(found, reversed(singles), strict=True):
        with torch.no_grad():
            own = copy.deepcopy(fresh)(torch.tensor([result.token_ids])).logits[0, -1].double()
        assert result.targets.value == pytest.approx(float(own.log_softmax(-1)[7]), abs=1e-5)
        check_alike(single, result)


def test_no_prompts_no_results(llama: ms.Model) -> None:
    assert llama.attribute_many([]) == []


@pytest.mark.parametrize(
    ("prompts", "targets", "error", "message"),
    [
        (PROMPTS, [40], ms.OptionError, "there are 4 prompts and 1 targets"),
        (words(5), None, ms.OptionError, "one text; give a list"),
        ([words(5)], " w40", ms.OptionError, "one text; give a list"),
        ([words(5), ""], None, ms.PromptError, "empty"),
        ([words(5), words(6)], [40, 97], ms.TargetError, "from 0 to 96"),
    ],
)
def test_what_makes_no_sense_is_told(
    llama: ms.Model, prompts: list, targets: list | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        llama.attribute_many(prompts, targets)
