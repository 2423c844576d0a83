"""Several prompts at once give what each gives alone."""

from __future__ import annotations

import pytest

import mnemoscope as ms
from mnemoscope.model.capture import batches
from mnemoscope.model.family import Family
from support import WITH_EXPERTS, check_alike, family_id, open_tiny, words

PROMPTS = [words(5, 17, 80, 33), words(9), words(*range(3, 14)), words(61, 5, 5)]


@pytest.mark.parametrize("family", WITH_EXPERTS, ids=family_id)
def test_results_are_those_of_one_prompt_at_a_time(family: Family) -> None:
    model = open_tiny(family.build())
    targets = [" w40", None, [7, 66], 23]
    found = model.attribute_many(PROMPTS, targets, top=6)
    for result, prompt, target in zip(found, PROMPTS, targets, strict=True):
        assert result.prompt == prompt
        check_alike(result, model.attribute(prompt, target, top=6))


def test_a_small_budget_makes_more_passes(llama: ms.Model) -> None:
    anatomy, ids = llama.language_model.anatomy, [[5] * length for length in (4, 1, 11, 3)]
    at_once = list(batches(ids, anatomy, 2**30))
    assert at_once == [range(4)]
    one_by_one = list(batches(ids, anatomy, 1))
    assert one_by_one == [range(i, i + 1) for i in range(4)]
    assert list(batches([], anatomy, 1)) == []
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
    try:
        llama.attribute_many(PROMPTS, top=3, query=False, effects=False)
    finally:
        handle.remove()
    assert passes == [4]


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
