"""A prompt that is run once answers every question as one that is run anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import mnemoscope as ms
from mnemoscope.attribution import scores
from mnemoscope.attribution.grids import project_columns
from mnemoscope.model.families.registry import Family
from mnemoscope.model.replay import numbers_in_graph
from support import WITH_EXPERTS, built, check_alike, chosen_on_push, open_tiny, opened_once, words

PROMPT = words(5, 17, 80, 33)
ASKED: list[dict[str, Any]] = [
    {},
    {"target": " w40", "query": False},
    {"target": 23, "effects": False, "suppressing": False, "query": False},
    {"target": [7, 66], "against": [" w41"]},
    {"target": [7, 66, 12]},
    {"target": " w41", "by": "total"},
    {"target": " w42", "neurons": "bounds"},
]


@contextmanager
def counted(model: ms.Model) -> Iterator[list[None]]:
    """A list that grows with every pass through the model's body."""
    passes: list[None] = []
    body = model.language_model.model.base_model
    handle = body.register_forward_pre_hook(lambda *_: passes.append(None))
    model.prompt(PROMPT)  # the model is validated anew with the hook
    passes.clear()
    try:
        yield passes
    finally:
        handle.remove()


@pytest.mark.parametrize("family", chosen_on_push(WITH_EXPERTS, "gpt_neox", "mixtral"))
def test_every_question_is_answered_as_of_a_run_of_its_own(family: Family) -> None:
    model = opened_once(family)
    run = model.run(PROMPT)
    for options in [*ASKED, ASKED[0]]:
        check_alike(run.attribute(**options, top=6), model.attribute(PROMPT, **options, top=6))
    assert run.predict(5).table.equals(model.predict(PROMPT, 5).table)


def test_a_prompt_is_run_once(llama: ms.Model) -> None:
    with counted(llama) as passes:
        run = llama.run(PROMPT)
        run.predict()
        assert len(passes) == 1
        for target in (None, 40, " w41"):
            run.attribute(target, effects=False, query=False)
        assert len(passes) == 1
        run.attribute(40, query=False)
        assert len(passes) == 2


def test_the_default_answer_and_another_target_take_one_pass(llama: ms.Model) -> None:
    with counted(llama) as passes:
        run = llama.run(PROMPT)
        effects = [run.attribute(target, top=6).ffn_neurons["total"] for target in (40, 41, 40)]
    assert len(passes) == 1
    assert effects[0].equals(effects[2])
    assert not effects[0].equals(effects[1])


def test_a_graph_larger_than_a_share_of_the_budget_serves_one_target(llama: ms.Model) -> None:
    of_graph = 4 * len(llama.prompt(PROMPT).ids) * numbers_in_graph(llama.language_model.structure)
    asked: dict[str, Any] = {"query": False, "top": 6}
    with counted(llama) as passes:
        run = llama.run(PROMPT, memory_budget=2 * of_graph)
        results = [run.attribute(40, **asked)]
        assert len(passes) == 1
        results.append(run.attribute(41, **asked))
        assert len(passes) == 2
        llama.run(PROMPT, memory_budget=of_graph - 1).attribute(40, **asked)
        assert len(passes) == 4
    for target, result in zip((40, 41), results, strict=True):
        check_alike(result, llama.attribute(PROMPT, target, **asked))


def test_parts_that_were_scored_are_not_projected_for_another_target(
    llama: ms.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    projected: list[int] = []

    def counting(readout: Any, grid: Any, columns: Any, *out: Any) -> Any:
        projected.append(len(columns))
        return project_columns(readout, grid, columns, *out)

    monkeypatch.setattr(scores, "project_columns", counting)
    run, asked = llama.run(PROMPT), {"top": 6, "effects": False, "query": False}
    first = run.attribute(40, **asked)
    assert sum(projected) > 0
    run.attribute(41, **asked)
    projected.clear()
    check_alike(run.attribute(40, **asked), first)
    assert projected == []
    run.attribute(40, neurons="all", **asked)
    structure = llama.language_model.structure
    n_columns = structure.n_layers * (structure.d_ff + structure.n_heads * structure.d_head)
    assert 0 < sum(projected) < n_columns
    projected.clear()
    check_alike(run.attribute(41, **asked), llama.attribute(PROMPT, 41, **asked))
    assert sum(projected) > 0, "a run of its own projects"


def test_each_of_several_prompts_takes_one_pass_and_without_effects_all_of_one_length_do(
    llama: ms.Model,
) -> None:
    prompts = [PROMPT, words(6, 18, 81, 34), words(7, 19)]
    with counted(llama) as passes:
        llama.attribute_many(prompts, [40, 41, 42], top=6)
        assert len(passes) == 3
        passes.clear()
        llama.attribute_many(prompts, [40, 41, 42], top=6, effects=False)
        assert len(passes) == 2


def test_half_precision_takes_its_effects_from_a_pass_in_float32() -> None:
    half = open_tiny(built("llama").bfloat16())
    with counted(half) as passes:
        half.run(PROMPT).attribute(40, top=6, query=False)
    assert len(passes) == 2


def test_nothing_is_run_for_a_target_that_is_none(llama: ms.Model) -> None:
    with counted(llama) as passes, pytest.raises(ms.TargetError):
        llama.run(PROMPT).attribute(" nothing of the kind")
    assert passes == []


def test_a_run_is_of_the_model_as_it_was_then(llama: ms.Model) -> None:
    before = llama.run(PROMPT)
    before.predict()
    with llama.ablate([ms.FFNNeuron(1, 3)]):
        for ask in (before.predict, before.attribute):
            with pytest.raises(ms.OptionError, match="changed otherwise than when this run was begun"):
                ask()
        during = llama.run(PROMPT)
        check_alike(during.attribute(40), llama.attribute(PROMPT, 40))
        with llama.ablate([ms.Head(0, 0)]), pytest.raises(ms.OptionError, match="changed otherwise"):
            during.predict()
        during.predict()
    with pytest.raises(ms.OptionError, match="begin another run"):
        during.attribute(40)
    before.attribute(40)


def test_parts_of_a_run_with_a_changed_head_do_not_add_up(llama: ms.Model) -> None:
    with llama.ablate([ms.Head(0, 0)]):
        run = llama.run(PROMPT)
        run.predict()
        with pytest.raises(ms.OptionError, match="would not add up"):
            run.attribute(40)
