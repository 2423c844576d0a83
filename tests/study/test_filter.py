"""The filter keeps a fact if the model alone with each prompt knows it."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.errors import OptionError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.study import filter as study
from mnemoscope.study.facts import BadLine, Fact, ResolvedFact, answers_of, resolve
from mnemoscope.study.filter import filter_facts, known_facts
from mnemoscope.study.formats import read_facts
from support import N_WORDS, built, open_tiny, words

KNOWN_TO_DEMO = Path(__file__).parents[3] / "shared" / "data" / "known_to_demo.jsonl"


def fact(prompt: str, target: str, relation: str = "a", line: int = 1) -> Fact:
    return Fact(line, prompt, target, relation)


def own_logits(model: ms.Model, ids: Sequence[int]) -> Tensor:
    """What transformers says comes next after one prompt alone."""
    with torch.no_grad():
        return model.language_model.model(input_ids=torch.tensor([ids])).logits[0, -1].float()


def mixed_facts(model: ms.Model, n_facts: int = 40) -> list[ResolvedFact]:
    """Facts of several lengths and relations, half of whose targets the model finds likely."""
    generator = random.Random(0)
    facts = []
    for line in range(1, n_facts + 1):
        ids = [generator.randrange(3, N_WORDS) for _ in range(generator.choice([1, 2, 5, 9]))]
        likely = own_logits(model, ids)[3:].topk(12).indices + 3
        target = int(generator.choice(likely)) if line % 2 else generator.randrange(3, N_WORDS)
        facts.append(fact(words(*ids), f"w{target}", generator.choice("abcdefghijkl"), line))
    resolved, bad_lines = resolve(model.language_model, facts)
    assert not bad_lines
    return resolved


def expected_lines(model: ms.Model, resolved: list[ResolvedFact], rank: int) -> list[int]:
    """The filter's definition, one prompt at a time."""
    lines = []
    for found in resolved:
        logits = own_logits(model, found.prompt.ids)
        others = {other.target for other in resolved if other.fact.relation == found.fact.relation}
        beaten = all(logits[found.target] > logits[i] for i in others - {found.target})
        if beaten and found.target in logits.topk(min(rank, N_WORDS)).indices:
            lines.append(found.fact.line)
    return lines


def check(model: ms.Model, rank: int) -> tuple[list[ResolvedFact], list[BadLine]]:
    resolved = mixed_facts(model)
    kept, dropped = known_facts(model.language_model, resolved, rank)
    lines = [found.fact.line for found in kept]
    assert lines == expected_lines(model, resolved, rank)
    assert sorted([*lines, *(drop.line for drop in dropped)]) == [found.fact.line for found in resolved]
    return kept, dropped


def test_keeps_what_single_prompts_keep(tiny: ms.Model) -> None:
    kept, dropped = check(tiny, rank=10)
    assert len(kept) > 2
    assert len(dropped) > 2


@pytest.mark.parametrize(("tokens", "rank"), [(1, 3), (10, 1), (10, N_WORDS), (10_000, 1000)])
def test_any_size_of_batch_gives_the_same(
    llama: ms.Model, monkeypatch: pytest.MonkeyPatch, tokens: int, rank: int
) -> None:
    monkeypatch.setattr(study, "TOKENS_PER_PASS", tokens)
    check(llama, rank)


def test_passes_hold_no_more_tokens_than_allowed(llama: ms.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    usual = study._log_probabilities

    def counting(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
        sizes.append([len(prompt) for prompt in prompts])
        return usual(model, prompts)

    monkeypatch.setattr(study, "_log_probabilities", counting)
    monkeypatch.setattr(study, "TOKENS_PER_PASS", 30)
    known_facts(llama.language_model, mixed_facts(llama))
    assert max(sum(lengths) for lengths in sizes) <= 30
    assert all(len(set(lengths)) == 1 for lengths in sizes)
    assert len(sizes) < 20


def test_rounding_in_a_batch_turns_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_tiny(built("gpt_neox"))
    usual = study._log_probabilities

    def rounding(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
        log_p = usual(model, prompts)
        return log_p if len(prompts) == 1 else log_p + 1e-4 * (2 * torch.rand_like(log_p) - 1)

    monkeypatch.setattr(study, "_log_probabilities", rounding)
    with torch.no_grad():  # all tokens are nearly, but not exactly, as likely
        unembedding = model.language_model.structure.readout.unembedding
        unembedding[:] = unembedding[3] * (1 + 2e-5 * torch.randperm(N_WORDS)[:, None])
    resolved = mixed_facts(model)
    for rank in (1, 10, 40):
        kept, dropped = known_facts(model.language_model, resolved, rank)
        with monkeypatch.context() as alone:
            alone.setattr(study, "TOKENS_PER_PASS", 1)
            expected = known_facts(model.language_model, resolved, rank)
        assert kept == expected[0]
        assert [drop.line for drop in dropped] == [drop.line for drop in expected[1]]
        assert kept


def test_says_why_a_fact_is_dropped(llama: ms.Model) -> None:
    order = own_logits(llama, [7, 8]).argsort(descending=True).tolist()
    first, second = (f"w{i}" for i in [i for i in order if i > 2][:2])
    twelfth = f"w{order[11]}"
    facts = [
        fact("w7 w8", first, line=1),
        fact("w7 w8", second, line=2),
        fact("w7 w8", second, "b", line=3),
        Fact(4, "w7 w8", twelfth, "c", place="item 4"),
    ]
    kept, dropped = known_facts(llama.language_model, resolve(llama.language_model, facts)[0])
    assert [found.fact for found in kept] == [facts[0], facts[2]]
    assert [drop.where for drop in dropped] == ["line 2", "item 4"]
    assert (
        dropped[0].reason == f"'{first}', another answer of the relation, is as likely as '{second}' or more"
    )
    assert dropped[1].reason == (
        f"'{twelfth}' is number 12 of the model's next tokens, not among the first 10"
    )


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_fact_is_filtered_by_the_prediction_that_is_attributed(name: str) -> None:
    half: Any = built(name).to(torch.bfloat16)
    half.set_attn_implementation("eager")
    model = open_tiny(half)
    prompts = [[3, 5, 7, 9, 11, 13, 15, 17], [4, 6, 8, 10, 12, 14, 16, 18]]
    found = study._log_probabilities(model.language_model, prompts)
    for prompt, own, cache in zip(prompts, found, model.language_model.capture(prompts), strict=True):
        readout = model.language_model.structure.readout.freeze(cache.final_state)
        assert torch.allclose(own, readout.log_probabilities(cache.final_state[None])[0], atol=1e-4)
        alone = study._log_probabilities(model.language_model, [prompt])[0]
        predicted = model.predict(words(*prompt), top=N_WORDS).table.sort_values("id")
        assert torch.allclose(alone, torch.tensor(predicted["log_probability"].to_numpy()).float(), atol=1e-4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_keeps_nothing_on_the_word_of_a_broken_model(
    llama: ms.Model, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(
        study, "_log_probabilities", lambda _, prompts: torch.full((len(prompts), N_WORDS), value)
    )
    resolved = mixed_facts(llama)
    kept, dropped = known_facts(llama.language_model, resolved)
    assert not kept
    assert all("check the weights" in drop.reason for drop in dropped)
    for verdict in filter_facts(llama.language_model, resolved):
        assert verdict.rank == 0
        assert math.isnan(verdict.probability)


def test_a_part_of_the_facts_is_judged_as_the_whole(llama: ms.Model) -> None:
    resolved = mixed_facts(llama, 80)
    whole = filter_facts(llama.language_model, resolved, rank=20)
    answers = answers_of(resolved)
    parts, alone = [], []
    for start in range(0, len(resolved), 7):
        part = resolved[start : start + 7]
        parts += filter_facts(llama.language_model, part, rank=20, answers=answers)
        alone += filter_facts(llama.language_model, part, rank=20)
    assert [verdict.fact for verdict in parts] == resolved
    assert [verdict.reason for verdict in parts] == [verdict.reason for verdict in whole]
    assert [verdict.rank for verdict in parts] == [verdict.rank for verdict in whole]
    assert [verdict.reason for verdict in alone] != [verdict.reason for verdict in whole]
    with pytest.raises(OptionError, match="the answers lack the relation 'a'"):
        filter_facts(llama.language_model, resolved, answers={})


def test_a_verdict_tells_rank_and_probability(tiny: ms.Model) -> None:
    resolved = mixed_facts(tiny)
    for verdict in filter_facts(tiny.language_model, resolved):
        logits = own_logits(tiny, verdict.fact.prompt.ids)
        assert verdict.rank == int((logits > logits[verdict.fact.target]).sum()) + 1
        assert verdict.probability == pytest.approx(float(logits.softmax(0)[verdict.fact.target]), rel=1e-3)


def test_rivals_need_not_be_beaten(llama: ms.Model) -> None:
    resolved = mixed_facts(llama)
    kept, _ = known_facts(llama.language_model, resolved, rank=40, rivals=False)
    within = [verdict.fact for verdict in filter_facts(llama.language_model, resolved) if verdict.rank <= 40]
    assert kept == within
    assert len(kept) > len(known_facts(llama.language_model, resolved, rank=40)[0])


def test_facts_of_no_relation_have_no_rivals(llama: ms.Model) -> None:
    nameless = [
        dataclasses.replace(f, fact=dataclasses.replace(f.fact, relation="")) for f in mixed_facts(llama)
    ]
    assert answers_of(nameless) == {}
    expected = known_facts(llama.language_model, nameless, rivals=False)
    assert known_facts(llama.language_model, nameless) == expected
    assert filter_facts(llama.language_model, nameless, answers={})[0].fact == nameless[0]


def test_refuses_a_rank_of_none(llama: ms.Model) -> None:
    with pytest.raises(OptionError, match="rank is 0; give 1 or more"):
        known_facts(llama.language_model, [], rank=0)
    assert known_facts(llama.language_model, []) == ([], [])


@pytest.mark.demo
def test_demo_model_knows_the_facts_known_to_it(demo: ms.Model) -> None:
    if not KNOWN_TO_DEMO.exists():
        pytest.skip("the facts known to the demo model are not beside this checkout")
    found = read_facts(KNOWN_TO_DEMO)
    assert len(found.facts) == 2220
    assert not found.bad_lines
    facts = [f for f in found.facts if f.relation in ("country_capital_city", "fruit_inside_color")]
    resolved, bad_lines = resolve(demo.language_model, facts)
    assert len(resolved) == 57
    assert not bad_lines
    kept, dropped = known_facts(demo.language_model, resolved)
    assert len(kept) >= 55, dropped
    # Beside right answers, wrong ones are all taken out and take no right one with them.
    right = [found for found in kept if found.fact.relation == "country_capital_city"][:12]
    wrong = [dataclasses.replace(found, target=right[i - 1].target) for i, found in enumerate(right)]
    wrong = [found for found in wrong if found not in right]
    assert len(wrong) > 2
    assert known_facts(demo.language_model, [*right, *wrong])[0] == right
