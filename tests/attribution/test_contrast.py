"""Log-odds of answers of several tokens: beside brute force in float64, and the model's own logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.model.families.registry import Family
from mnemoscope.results.continuation import ContinuationAttribution
from oracle.checks import LARGEST_ERROR, TIE
from oracle.scores import Oracle
from oracle.tables import padded
from support import WITH_EXPERTS, check_alike, chosen_on_push, opened_once, words

IDS = (5, 17, 80, 33)
PROMPT = words(*IDS)
KEYS = {
    "layers": ("layer", "kind"),
    "heads": ("layer", "head"),
    "ffn_neurons": ("layer", "neuron"),
    "attention_neurons_summed": ("layer", "head", "dim"),
}
# Target and contrast: they differ at once, share a beginning, or one of them is a single token.
PAIRS = [
    ((40, 7, 66), (9, 12)),
    ((40, 7, 66), (40, 7, 9, 12)),
    ((40,), (9, 12)),
    ((40, 7), (9,)),
    ((40,), (9,)),
]


def text(ids: Sequence[int]) -> str:
    return f" {words(*ids)}"


def brute_force(model: ms.Model, ids: Sequence[int], sign: int) -> dict[str, Any]:
    """Add every part's scores for each token of an answer, its own prompt run anew in float64."""
    found: dict[str, Any] = dict.fromkeys((*KEYS, "value", "value_of_embeddings"), 0.0)
    for number, token in enumerate(ids):
        oracle = Oracle(model.language_model.model, (*IDS, *ids[:number]), [token])
        neurons = oracle.ffn_neurons
        scores = {
            "layers": oracle.layers,
            "heads": oracle.heads,
            "ffn_neurons": padded(neurons),
            "attention_neurons_summed": oracle.attention_neurons_summed,
            "value": oracle.value,
            "value_of_embeddings": oracle.value_of_embeddings,
        }
        found = {name: found[name] + sign * score for name, score in scores.items()}
    return found


def check_beside(result: ContinuationAttribution, expected: dict[str, Any], top: int) -> None:
    """Compare every sum, and the k-th listed with the k-th best of all parts."""
    assert result.value == pytest.approx(expected["value"], abs=LARGEST_ERROR)
    assert result.value_of_embeddings == pytest.approx(expected["value_of_embeddings"], abs=LARGEST_ERROR)
    for name, keys in KEYS.items():
        right: Tensor = expected[name]
        for sign, listed in ((1, name), (-1, f"suppressing_{name}")):
            table: pd.DataFrame | None = getattr(result, listed, None)
            if table is None:
                continue
            columns = [table[key].replace({"attention": 0, "ffn": 1}).to_numpy().astype(int) for key in keys]
            own = right[tuple(torch.tensor(column) for column in columns)]
            assert table["direct"].to_numpy() == pytest.approx(own.numpy(), abs=LARGEST_ERROR), listed
            each = table[[name for name in table if str(name).startswith("direct_")]]
            assert table["direct"].to_numpy() == pytest.approx(each.sum(axis=1).to_numpy(), abs=1e-5)
            best = (sign * right[~right.isnan()]).sort(descending=True).values[: len(table)]
            assert (sign * own - best).abs().max() <= TIE, listed
            assert len(table) == (right.numel() if name in ("layers", "heads") else top)


@pytest.mark.parametrize(("target", "against"), PAIRS)
@pytest.mark.parametrize("family", chosen_on_push(WITH_EXPERTS, "gpt2", "gpt_neox", "gemma2"))
def test_scores_are_differences_of_whole_answers(
    family: Family, target: tuple[int, ...], against: tuple[int, ...]
) -> None:
    model = opened_once(family)
    result = model.attribute_continuation(
        PROMPT, text(target), against=text(against), top=12, query=False, effects=False
    )
    of_target, of_other = brute_force(model, target, 1), brute_force(model, against, -1)
    check_beside(result, {name: score + of_other[name] for name, score in of_target.items()}, 12)
    if result.telescoping_error is not None:
        assert abs(result.telescoping_error) <= LARGEST_ERROR


@pytest.fixture(scope="module")
def result(llama: ms.Model) -> ContinuationAttribution:
    """Three tokens over three others, of which the first is shared."""
    return llama.attribute_continuation(PROMPT, text((40, 7, 66)), against=text((40, 9, 12)), top=4)


def own_log_probability(model: Any, ids: Sequence[int]) -> float:
    """Return an answer's log probability by one forward pass of the transformers model."""
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([[*IDS, *ids]])).logits[0].double().log_softmax(-1)
    return sum(float(log_p[len(IDS) - 1 + number, token]) for number, token in enumerate(ids))


def test_each_token_is_attributed_after_those_of_its_own_answer(
    llama: ms.Model, result: ContinuationAttribution
) -> None:
    asked = [((40,), 7, 9), ((40, 7), 66, None), ((40, 9), 12, None)]
    for found, (before, target, against) in zip(result.predictions, asked, strict=True):
        check_alike(found, llama.attribute(words(*IDS, *before), target, against=against, top=4))
    assert result.attributions[0].query_neurons is not None
    assert [target.id for target in result.targets] == [40, 7, 66]
    assert [target.id for target in result.against_targets] == [40, 9, 12]
    assert [target.id for target in result.shared] == [40]
    assert result.prompt_tokens == llama.attribute(PROMPT, 40, top=1, query=False).tokens
    own = [own_log_probability(llama.language_model.model, ids) for ids in ((40, 7, 66), (40, 9, 12))]
    assert result.log_probability == pytest.approx(own[0], abs=1e-4)
    assert result.value == pytest.approx(own[0] - own[1], abs=1e-4)


def test_ids_and_the_likeliest_token_are_answers_too(llama: ms.Model) -> None:
    options: Any = {"top": 3, "query": False, "effects": False}
    likeliest = llama.predict(PROMPT, 1).table["id"].tolist()[0]
    named = llama.attribute_continuation(PROMPT, text((likeliest,)), against=text((9, 12)), **options)
    for target in (likeliest, None):
        found = llama.attribute_continuation(PROMPT, target, against=text((9, 12)), **options)
        assert found.ffn_neurons.equals(named.ffn_neurons)
    other = llama.attribute_continuation(PROMPT, text((9, 12)), against=likeliest, **options)
    assert other.value == pytest.approx(-named.value, abs=1e-5)
    assert other.ffn_neurons["direct"].tolist() == pytest.approx(
        (-named.suppressing_ffn_neurons["direct"]).tolist(), abs=1e-5
    )


def test_promoted_tokens_are_of_the_whole_vocabulary(llama: ms.Model) -> None:
    """The readout of log-odds has two tokens alone."""
    found = llama.attribute_continuation(
        PROMPT, text((40, 7)), against=text((9, 12)), top=40, query=False, effects=False
    )
    for row in found.ffn_neurons.to_dict("records"):
        largest = max(range(3), key=lambda number, row=row: abs(row[f"direct_{number}"]))
        reading = llama.neuron_tokens(row["layer"], row["neuron"])
        up, down = ([token for token, _ in side] for side in (reading.promotes, reading.demotes))
        if row[f"coefficient_{largest}"] < 0:
            up, down = down, up
        assert (row["promotes"], row["demotes"]) == (up, down)


def test_json_has_both_answers(result: ContinuationAttribution, tmp_path: Path) -> None:
    found = json.loads(result.save(tmp_path / "odds.json").read_text())
    assert found["value"] == result.value
    assert found["target"]["log_probability"] - found["against"]["log_probability"] == pytest.approx(
        result.value
    )
    assert [token["id"] for token in found["against"]["tokens"]] == [40, 9, 12]
    assert [each["target"] and each["target"]["id"] for each in found["attributions"]] == [None, 66]
    assert [each["target"]["id"] for each in found["against_attributions"]] == [12]
    row = found["ffn_neurons"][0]
    assert row["direct"] == pytest.approx(sum(row["direct_by_token"]), abs=1e-6)
    assert len(row["direct_by_token"]) == 3
    assert found["tokens"] == ["w5", "w17", "w80", "w33"]


@pytest.mark.parametrize(
    ("target", "against", "message"),
    [
        (" w40 w7", " w40", "'w40' begins 'w40' 'w7', so that these answers do not exclude each other; "),
        (" w40", " w40 w7", "'w40' begins"),
        (" w40 w7", " w40 w7", "'w40' 'w7' is given twice"),
        (" w40 w7", "", "target is empty"),
    ],
)
def test_answers_that_do_not_exclude_each_other_are_refused(
    llama: ms.Model, target: str, against: str, message: str
) -> None:
    with pytest.raises(ms.TargetError, match=message):
        llama.attribute_continuation(PROMPT, target, against=against)
    if against:
        with pytest.raises(ms.TargetError, match=message):
            llama.compare_ablation(PROMPT, target, [ms.FFNNeuron(0, 1)], against=against)


@pytest.mark.parametrize("target", [(40, 7, 66), (40,)])
@pytest.mark.parametrize("others", [[(9, 12)], [(9, 12), (40, 9)], [(9,), (12, 7)]])
def test_an_ablation_measures_whole_answers(
    llama: ms.Model, target: tuple[int, ...], others: list[tuple[int, ...]]
) -> None:
    others = [other for other in others if other[: len(target)] != target]
    parts = [ms.FFNNeuron(0, 3), ms.Head(1, 1)]
    found = llama.compare_ablation(
        PROMPT, text(target), parts, against=[text(ids) for ids in others], seeds=1
    )

    def log_odds() -> float:
        model = llama.language_model.model
        total = torch.tensor([own_log_probability(model, ids) for ids in others]).logsumexp(0)
        return own_log_probability(model, target) - float(total)

    assert found.before["log_odds"] == pytest.approx(log_odds(), abs=1e-4)
    with llama.ablate(parts):
        assert found.after["log_odds"] == pytest.approx(log_odds(), abs=1e-4)
    assert [name.strip() for _, name in found.against] == [words(*ids) for ids in others]
    assert "log_odds" in found.controls
