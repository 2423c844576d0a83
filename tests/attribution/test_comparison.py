"""Comparisons of two prompts: every score is exact in both, and the certified rows lead all neurons."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import mnemoscope as ms
from support import built, open_tiny, words

A, B = words(5, 17, 80, 33), words(9, 17, 41)
PLACES = {"ffn_neurons": ["layer", "neuron"], "attention_neurons_summed": ["layer", "head", "dim"]}
TARGETS: dict[str, Any] = {"target_a": 40, "target_b": 41}


@pytest.fixture(scope="module")
def experts() -> ms.Model:
    return open_tiny(built("mixtral"))


def every_score(model: ms.Model, prompt: str, target: Any, against: Any, table: str) -> pd.Series:
    """Scores of all neurons by lists without an end, 0 where a neuron takes no part."""
    found = model.attribute(
        prompt, target, against=against, top=10**5, neurons="all", query=False, effects=False
    )
    parts = pd.concat([getattr(found, table), getattr(found, f"suppressing_{table}")])
    return parts.set_index(PLACES[table])["direct"]


def check(model: ms.Model, top: int, **targets: Any) -> None:
    found = model.compare(A, B, top=top, **targets)
    for table, places in PLACES.items():
        ours = getattr(found, table)
        a, b = (
            every_score(model, prompt, targets.get(f"target_{side}"), targets.get(f"against_{side}"), table)
            for side, prompt in (("a", A), ("b", B))
        )
        scores = pd.DataFrame({"a": a, "b": b}).fillna(0.0).astype("float32")
        scores["diff"] = scores["b"] - scores["a"]
        rows = ours.set_index(places)
        expected = scores.reindex(rows.index).fillna(0.0)
        for column in ("a", "b", "diff"):
            assert rows[column].to_numpy() == pytest.approx(expected[column].to_numpy(), abs=2e-6), table
        assert ours["diff"].abs().is_monotonic_decreasing
        unlisted = scores.drop(index=rows.index, errors="ignore")["diff"].abs()
        assert unlisted.max() <= found.unlisted[table] or unlisted.empty
        first = found.n_certified(table)
        by_force = scores["diff"].abs().sort_values(ascending=False).head(first)
        assert set(by_force.index) == set(rows.index[:first])


def test_scores_are_those_of_exhaustive_scoring_in_both_prompts(tiny: ms.Model) -> None:
    check(tiny, 6, **TARGETS)


def test_a_neuron_of_one_list_alone_is_scored_in_the_other_prompt(llama: ms.Model) -> None:
    found = llama.compare(A, B, top=2, **TARGETS)
    listed = [
        pd.concat([side.ffn_neurons, side.suppressing_ffn_neurons])[["layer", "neuron"]]
        for side in (found.a, found.b)
    ]
    assert len(found.ffn_neurons) == len(pd.concat(listed).drop_duplicates()) > 4
    assert (found.ffn_neurons[["a", "b"]] != 0).all(axis=None)


@pytest.mark.parametrize(
    "targets",
    [
        {},
        {"target_a": [40, 42], "target_b": " w41"},
        {"target_a": 40, "against_a": 43, "target_b": 41, "against_b": [44, 45]},
        {"target_a": 40, "target_b": 41, "against_b": 44},
    ],
)
def test_targets_are_of_all_kinds(llama: ms.Model, targets: dict[str, Any]) -> None:
    check(llama, 5, **targets)


def test_neurons_of_experts_that_one_prompt_does_not_use_score_nothing_there(experts: ms.Model) -> None:
    check(experts, 10, **TARGETS)
    found = experts.compare(A, B, top=1000, **TARGETS).ffn_neurons
    assert "expert" in found
    away = found["coefficient_a"] == 0
    assert away.any()
    assert (found.loc[away, "a"] == 0).all()


def test_a_prompt_compared_with_itself_does_not_differ(llama: ms.Model) -> None:
    found = llama.compare(A, A, target_a=40, target_b=40, top=5)
    for table in found.tables().values():
        assert (table["diff"] == 0).all()


def test_layers_and_heads_are_those_of_the_attributions(llama: ms.Model) -> None:
    found = llama.compare(A, B, top=3, **TARGETS)
    for table, place in (("layers", "kind"), ("heads", "head")):
        ours = getattr(found, table).set_index(["layer", place])
        for column, side in (("a", found.a), ("b", found.b)):
            theirs = getattr(side, table).set_index(["layer", place])["direct"]
            assert (ours[column] == theirs.reindex(ours.index)).all()
        assert len(ours) == len(getattr(found.a, table))


def test_promoted_tokens_take_the_sign_where_the_score_is_larger(llama: ms.Model) -> None:
    rows = llama.compare(A, B, top=5, **TARGETS).ffn_neurons.to_dict("records")
    for row in rows:
        larger = "a" if abs(row["a"]) >= abs(row["b"]) else "b"
        read = llama.neuron_tokens(row["layer"], row["neuron"])
        ends = [[token for token, _ in tokens] for tokens in (read.promotes, read.demotes)]
        expected = ends if row[f"coefficient_{larger}"] >= 0 else ends[::-1]
        assert [list(row["promotes"]), list(row["demotes"])] == expected


def test_mistakes_are_those_of_attribute(llama: ms.Model) -> None:
    with pytest.raises(ms.OptionError, match="top is 0"):
        llama.compare(A, B, top=0)
    with pytest.raises(ms.TargetError, match="w40 w41"):
        llama.compare(A, B, target_a=40, target_b=" w40 w41")
    with llama.ablate([ms.Head(1, 1)]), pytest.raises(ms.OptionError, match="would not add up"):
        llama.compare(A, B)
