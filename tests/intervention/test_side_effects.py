"""What an intervention does to plain text and to other facts, against the slow and plain computation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import mnemoscope as ms
from mnemoscope.intervention import side_effects
from mnemoscope.intervention.batch import divergence
from mnemoscope.intervention.side_effects import KnownFact, PlainText, fact_effects, shipped_passages
from mnemoscope.results.ablation import TextEffect
from mnemoscope.results.columns import FACT_COLUMNS
from support import TINY_FEW, words

PROMPT = words(5, 17, 80, 33, 61)
PASSAGES = [
    words(5, 17, 80, 33, 61, 12, 9),
    words(44, 21, 3),
    words(70, 71, 72, 73, 74, 75, 76),
    "",
    words(50),
    words(4, 90, 13, 13, 60, 27, 8, 8, 91, 33),
]
STRONG = [ms.Layer(0, "ffn")]
PARTS = [ms.FFNNeuron(1, 1), ms.AttentionNeuron(0, 0, 1), ms.Head(0, 1), ms.Layer(2, "ffn")]
FACTS = [
    KnownFact((5, 17, 80), 40, "capital"),
    KnownFact((6, 18, 81, 9), 41, "capital"),
    KnownFact((7, 19, 82), 42, "colour"),
    KnownFact((8, 20, 83, 10), 43, "language"),
    KnownFact((9, 21, 84), 44, "capital"),
]


def hooks(model: ms.Model) -> int:
    modules = model.language_model.model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def log_probabilities(model: ms.Model, ids: tuple[int, ...]) -> torch.Tensor:
    """`[n_tokens, n_vocabulary]`, double precision."""
    with torch.no_grad():
        logits = model.language_model.model(input_ids=torch.tensor([ids])).logits[0]
    return logits.double().log_softmax(-1)


def slow(model: ms.Model, parts: list, passages: list[str], n_tokens: int, **how: object) -> TextEffect:
    """Passage by passage, prediction by prediction."""
    divergences, before, after = [], [], []
    for passage in passages:
        ids = tuple(model.language_model.tokenizer(passage).input_ids[:n_tokens]) if passage else ()
        if not ids:
            continue
        p = log_probabilities(model, ids)
        with model.ablate(parts, **how):
            q = log_probabilities(model, ids)
        for position in range(len(ids) - 1):
            own, changed = p[position], q[position]
            divergences.append(float((own.exp() * (own - changed)).sum()))
            before.append(float(own[ids[position + 1]]))
            after.append(float(changed[ids[position + 1]]))
    n = len(divergences)
    return TextEffect(
        sum(divergences) / n,
        float(torch.tensor(-sum(before) / n).exp()),
        float(torch.tensor(-sum(after) / n).exp()),
    )


def equal(found: TextEffect, expected: TextEffect) -> None:
    assert found.kl == pytest.approx(expected.kl, rel=1e-4, abs=1e-9)
    assert found.perplexity_before == pytest.approx(expected.perplexity_before, rel=1e-5)
    assert found.perplexity_after == pytest.approx(expected.perplexity_after, rel=1e-5)


def test_no_intervention_does_nothing_at_all(tiny: ms.Model) -> None:
    found = tiny.plain_text().effect()
    assert found.kl == 0
    assert found.perplexity_after == found.perplexity_before > 1
    assert hooks(tiny) == 0


@TINY_FEW
@pytest.mark.parametrize("budget", [200 * 2**20, 1])
@pytest.mark.parametrize("n_tokens", [32, 6])
def test_it_equals_the_slow_computation(tiny: ms.Model, n_tokens: int, budget: int) -> None:
    text = PlainText(tiny.language_model, PASSAGES, n_tokens, budget=budget)
    with tiny.ablate(PARTS):
        found = text.effect()
    equal(found, slow(tiny, PARTS, PASSAGES, n_tokens))
    assert found.kl > 0.01
    assert text.n_predictions == sum(min(n, n_tokens) - 1 for n in (7, 3, 7, 10))
    assert hooks(tiny) == 0


def test_positions_from_the_end_are_those_of_each_passage(llama: ms.Model) -> None:
    how = {"positions": [-2], "factor": 3.0}
    text = PlainText(llama.language_model, PASSAGES)
    with llama.ablate(STRONG, **how):
        found = text.effect()
    equal(found, slow(llama, STRONG, [p for p in PASSAGES if len(p.split()) > 1], 32, **how))
    assert found.kl > 0.01


def test_a_tiny_divergence_is_not_lost_in_rounding(llama: ms.Model) -> None:
    neuron, factor = [ms.FFNNeuron(2, 7)], 0.999
    text = PlainText(llama.language_model, PASSAGES)
    with llama.ablate(neuron, factor=factor):
        found = text.effect()
    expected = slow(llama, neuron, PASSAGES, 32, factor=factor)
    assert 0 < expected.kl < 1e-6
    assert found.kl == pytest.approx(expected.kl, rel=0.5, abs=0)


def test_a_divergence_beyond_float32_exponentials_is_finite(llama: ms.Model) -> None:
    text = PlainText(llama.language_model, PASSAGES)
    with llama.ablate(STRONG, factor=-1e3), llama.ablate([ms.Layer(2, "ffn")], factor=100.0):
        found = text.effect()
    assert torch.tensor(found.kl).isfinite()
    own = torch.tensor([[0.0, -200.0]]).log_softmax(-1)
    changed = torch.tensor([[-200.0, 0.0]]).log_softmax(-1)
    assert divergence(own, changed).tolist() == pytest.approx([200.0])
    assert divergence(changed, own).tolist() == pytest.approx([200.0])


def test_a_layer_does_much_and_a_neuron_little(llama: ms.Model) -> None:
    with llama.ablate(STRONG):
        layer = llama.plain_text().effect().kl
    with llama.ablate([ms.FFNNeuron(0, 3)]):
        neuron = llama.plain_text().effect().kl
    assert layer > 0.1
    assert 0 < neuron < 0.05 * layer


def test_the_unchanged_model_is_meant_even_inside_ablate(llama: ms.Model) -> None:
    outside = PlainText(llama.language_model, PASSAGES)
    with llama.ablate(STRONG):
        inside = PlainText(llama.language_model, PASSAGES)
        assert inside.effect() == outside.effect()
    assert inside.effect().kl == 0


def test_the_shipped_passages_are_what_their_readme_says() -> None:
    passages = shipped_passages()
    assert len(set(passages)) == 24
    assert all(30 <= len(passage.split()) <= 45 for passage in passages)


def test_long_passages_are_cut_to_the_context(llama: ms.Model) -> None:
    text = PlainText(llama.language_model, [words(*range(3, 90))], 80)
    assert [len(ids) for ids in text.texts] == [64]
    assert text.effect().kl == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: PlainText(lm, []), "none of the 0 passages"),
        (lambda lm: PlainText(lm, ["", "w4"]), "none of the 2 passages"),
        (lambda lm: PlainText(lm, PASSAGES, 1), "n_tokens is 1"),
        (lambda lm: fact_effects(lm, [KnownFact((), 4, "capital")], "capital"), "fact 0 has no tokens"),
        (lambda lm: fact_effects(lm, [*FACTS, KnownFact((4,), 97, "c")], "c"), "fact 5 has the target id 97"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    llama: ms.Model, call: Callable[[object], object], message: str
) -> None:
    with pytest.raises(ms.OptionError, match=message) as caught:
        call(llama.language_model)
    assert "\n" not in str(caught.value)


def expected_means(model: ms.Model, facts: list[KnownFact], parts: list | None) -> list[float]:
    found = []
    for fact in facts:
        if parts is None:
            log_p = log_probabilities(model, fact.token_ids)[-1]
        else:
            with model.ablate(parts):
                log_p = log_probabilities(model, fact.token_ids)[-1]
        value = log_p[fact.target]
        found.append([1 / (1 + int((log_p > value).sum())), float(value.exp()), float(value)])
    return torch.tensor(found, dtype=torch.float64).mean(0).tolist()


@TINY_FEW
@pytest.mark.parametrize("budget", [200 * 2**20, 1])
def test_facts_are_grouped_by_relation(tiny: ms.Model, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_effects, "BUDGET", budget)
    with tiny.ablate(PARTS):
        found = fact_effects(tiny.language_model, FACTS, "capital")
    assert list(found.columns) == list(FACT_COLUMNS)
    same = [fact for fact in FACTS if fact.relation == "capital"]
    others = [fact for fact in FACTS if fact.relation != "capital"]
    expected = [
        ("same relation", "before", 3, *expected_means(tiny, same, None)),
        ("same relation", "after", 3, *expected_means(tiny, same, PARTS)),
        ("other relations", "before", 2, *expected_means(tiny, others, None)),
        ("other relations", "after", 2, *expected_means(tiny, others, PARTS)),
    ]
    for row, wanted in zip(found.itertuples(index=False), expected, strict=True):
        assert row[:3] == wanted[:3]
        assert list(row[3:]) == pytest.approx(wanted[3:], rel=1e-4)
    assert hooks(tiny) == 0


def test_a_group_without_facts_has_no_rows(llama: ms.Model) -> None:
    found = fact_effects(llama.language_model, FACTS[:2], "capital")
    assert found["group"].tolist() == ["same relation"] * 2
    assert fact_effects(llama.language_model, [], "capital").empty


def test_the_comparison_reports_specificity(llama: ms.Model) -> None:
    parts = [ms.FFNNeuron(1, 1), ms.Head(0, 1)]
    found = llama.compare_ablation(PROMPT, 40, parts, seeds=3, facts=FACTS, relation="capital")
    with llama.ablate(parts):
        assert found.plain_text == llama.plain_text().effect()
        assert found.facts.equals(fact_effects(llama.language_model, FACTS, "capital"))
    assert list(found.controls.columns) == ["seed", "reciprocal_rank", "probability", "log_probability", "kl"]
    assert found.controls["kl"].nunique() == 3
    assert found.controls_mean["kl"] == pytest.approx(found.controls["kl"].mean())
    assert found.controls_standard_deviation["kl"] == pytest.approx(found.controls["kl"].std())
    written = found.to_json()
    assert written["plain_text"] == found.plain_text._asdict()
    assert written["facts"][3]["group"] == "other relations"
    assert written["controls"][1]["kl"] == found.controls["kl"][1]
    assert hooks(llama) == 0


def test_the_prompt_itself_is_no_other_fact(llama: ms.Model) -> None:
    prompt = words(*FACTS[0].token_ids)
    found = llama.compare_ablation(prompt, 40, STRONG, seeds=1, facts=FACTS, relation="capital")
    assert found.facts["n_facts"].tolist() == [2, 2, 2, 2]


def test_chosen_positions_are_the_facts_own_but_text_is_changed_throughout(llama: ms.Model) -> None:
    found = llama.compare_ablation(
        PROMPT, 40, STRONG, seeds=1, facts=FACTS, relation="capital", positions=[-1]
    )
    with llama.ablate(STRONG, positions=[-1]):
        assert found.facts.equals(fact_effects(llama.language_model, FACTS, "capital"))
    with llama.ablate(STRONG):
        assert found.plain_text == llama.plain_text().effect()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "without a relation"),
        ({"relation": "capital", "positions": [-1, 0]}, "counted from the start"),
    ],
)
def test_facts_need_a_relation_and_positions_they_have(
    llama: ms.Model, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ms.OptionError, match=message):
        llama.compare_ablation(PROMPT, 40, STRONG, facts=FACTS, **options)


@pytest.mark.demo
@pytest.mark.nightly  # on each push the tests above compare the effects of a tiny model with their definition
def test_the_neurons_of_a_fact_do_less_to_plain_text_than_a_layer(demo: ms.Model) -> None:
    neurons = demo.attribute(
        "The capital of Japan is the city of", " Tokyo", top=10, suppressing=False
    ).ffn_neurons
    effects = {}
    for name, parts in {"neurons": neurons, "layer": [ms.Layer(24, "ffn")], "nothing": None}.items():
        if parts is None:
            effects[name] = demo.plain_text().effect()
        else:
            with demo.ablate(parts):
                effects[name] = demo.plain_text().effect()
    assert effects["nothing"].kl == 0
    assert 0 < effects["neurons"].kl < 0.7 * effects["layer"].kl
    assert effects["neurons"].perplexity_after < effects["layer"].perplexity_after
