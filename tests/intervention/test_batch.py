"""Many interventions in one batch equal the same interventions one by one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import mnemoscope as ms
from mnemoscope.results.parts import Part
from support import words

PROMPT = words(5, 17, 80, 33)
TARGET = 40
SETS: list[list[Part]] = [
    [ms.FFNNeuron(2, 1), ms.FFNNeuron(2, 40), ms.FFNNeuron(0, 4)],
    [ms.Head(1, 2), ms.AttentionNeuron(1, 0, 3), ms.FFNNeuron(1, 0)],
    [ms.Layer(1, "ffn"), ms.Head(2, 0)],
    [ms.Layer(0, "attention")],
    [ms.AttentionNeuron(2, 3, 1), ms.Layer(2, "attention"), ms.Layer(2, "ffn")],
]


def one_by_one(model: ms.Model, sets: Sequence[Sequence[Part]], **how: object) -> list[tuple[float, float]]:
    found = []
    for parts in sets:
        with model.ablate(parts, **how):
            table = model.predict(PROMPT, top=model.n_vocabulary).table
        row = table[table["id"] == TARGET].iloc[0]
        found.append((1 / row["rank"], row["log_probability"]))
    return found


@pytest.mark.parametrize("how", [{}, {"factor": 1.7}, {"positions": [0, -1]}])
def test_a_batch_equals_one_by_one(tiny: ms.Model, how: dict[str, object]) -> None:
    found = tiny.ablate_each(PROMPT, TARGET, SETS, **how)
    expected = one_by_one(tiny, SETS, **how)
    assert found["log_probability"].tolist() == pytest.approx([log_p for _, log_p in expected], abs=1e-4)
    assert found["reciprocal_rank"].tolist() == pytest.approx([rank for rank, _ in expected])


def test_a_batch_inside_an_intervention_adds_to_it(llama: ms.Model) -> None:
    with llama.ablate([ms.FFNNeuron(0, 9), ms.Head(2, 1)]):
        found = llama.ablate_each(PROMPT, TARGET, SETS)
        expected = [log_p for _, log_p in one_by_one(llama, SETS)]
    assert found["log_probability"].tolist() == pytest.approx(expected, abs=1e-4)
    assert found["drop"].tolist() != pytest.approx(llama.ablate_each(PROMPT, TARGET, SETS)["drop"].tolist())


def test_order_and_budget_make_no_difference(llama: ms.Model) -> None:
    plenty = llama.ablate_each(PROMPT, TARGET, SETS)["drop"].tolist()
    little = llama.ablate_each(PROMPT, TARGET, SETS[::-1], memory_budget=1)["drop"].tolist()
    assert little[::-1] == pytest.approx(plenty, abs=1e-5)


def test_an_empty_intervention_is_refused(llama: ms.Model) -> None:
    with pytest.raises(ms.OptionError, match="no parts"):
        llama.ablate_each(PROMPT, TARGET, [[]])
    with pytest.raises(ms.OptionError, match="goes from 0 to 47"):
        llama.ablate_each(PROMPT, TARGET, [[ms.FFNNeuron(0, 48)]])
