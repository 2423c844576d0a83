"""Interventions equal edited weights, leave nothing behind, and refuse what is not there."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import mnemoscope as ms
from mnemoscope.errors import OptionError
from mnemoscope.intervention.controls import matched_random
from mnemoscope.intervention.hooks import Change, MaskedChange, apply_interventions, observed_inputs
from mnemoscope.intervention.predictions import states_after
from mnemoscope.model.parts import sites
from support import TINY_FEW, words

IDS = (5, 17, 80, 33, 61)
PROMPT = words(*IDS)
PARTS = {
    "FFN neurons": [ms.FFNNeuron(0, 3), ms.FFNNeuron(0, 40), ms.FFNNeuron(2, 7)],
    "attention neurons": [ms.AttentionNeuron(1, 2, 5), ms.AttentionNeuron(1, 3, 0)],
    "heads": [ms.Head(0, 1), ms.Head(2, 3)],
    "layers": [ms.Layer(1, "attention"), ms.Layer(2, "ffn")],
    "everything": [ms.FFNNeuron(1, 1), ms.AttentionNeuron(0, 0, 1), ms.Head(0, 1), ms.Layer(2, "ffn")],
}


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits


def fingerprint(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.contiguous().numpy().tobytes())
    return digest.hexdigest()


def hooks(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("factor", [0.0, pytest.param(0.5, marks=pytest.mark.nightly), -2.0])
@pytest.mark.parametrize("kind", PARTS)
def test_an_intervention_equals_edited_weights(tiny: ms.Model, kind: str, factor: float) -> None:
    model = tiny.language_model.model
    before, print_before = logits(model), fingerprint(model)
    edited = tiny.edit(PARTS[kind], factor=factor)
    with tiny.ablate(PARTS[kind], factor=factor):
        ablated = logits(model)
    assert (ablated - logits(edited.language_model.model)).abs().max() <= 1e-5 * before.abs().max()
    assert (ablated - before).abs().max() > 1e-3
    assert torch.equal(logits(model), before)
    assert fingerprint(model) == print_before
    assert hooks(model) == 0


@TINY_FEW
def test_a_saved_edit_opens_with_stock_transformers(tiny: ms.Model, tmp_path: Path) -> None:
    edited = tiny.edit(PARTS["everything"], save_to=tmp_path / "edited")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "edited").eval()
    assert torch.equal(logits(stock), logits(edited.language_model.model))
    assert [path.name for path in tmp_path.iterdir()] == ["edited"]
    embeddings = stock.get_input_embeddings().weight
    assert torch.equal(embeddings, tiny.language_model.model.get_input_embeddings().weight)


def test_a_saved_edit_opens_here_too(llama: ms.Model, tmp_path: Path) -> None:
    edited = llama.edit(PARTS["everything"], save_to=tmp_path / "edited")
    again = ms.load(tmp_path / "edited").predict(PROMPT)
    assert again.token_ids == IDS
    assert again.table.equals(edited.predict(PROMPT).table)


def test_an_existing_folder_is_not_overwritten(llama: ms.Model, tmp_path: Path) -> None:
    with pytest.raises(ms.OutputError, match="exists already"):
        llama.edit(PARTS["heads"], save_to=tmp_path)
    with pytest.raises(ms.OutputError, match="no folder"):
        llama.edit(PARTS["heads"], save_to=tmp_path / "a" / "b")


def test_only_the_chosen_positions_change(llama: ms.Model) -> None:
    model = llama.language_model.model
    before = logits(model)
    with llama.ablate(PARTS["everything"], positions=[-1]):
        last = logits(model)
    assert torch.equal(last[0, :-1], before[0, :-1])
    assert not torch.equal(last[0, -1], before[0, -1])
    with llama.ablate(PARTS["everything"], positions=range(len(IDS))):
        every = logits(model)
    with llama.ablate(PARTS["everything"]):
        assert torch.allclose(every, logits(model), atol=1e-6)


def test_changes_made_at_once_have_positions_of_their_own(llama: ms.Model) -> None:
    structure = llama.language_model.structure
    (neurons,) = sites([ms.FFNNeuron(0, 1), ms.FFNNeuron(0, 2)], structure)
    every = replace(neurons, layer=1, inputs=torch.arange(structure.n_neurons(1)))
    mask = torch.zeros(2, structure.n_neurons(1), dtype=torch.bool)
    mask[1, 3:5] = True
    ids, kept = [5, 17, 80, 33], {}
    with (
        apply_interventions(
            llama.language_model, [Change(neurons, 0.0, positions=[-1]), MaskedChange(every, mask)]
        ),
        observed_inputs(structure, [neurons, every], kept),
    ):
        states_after(llama.language_model, [ids])
    changed = {site: (kept[site][0] == 0).nonzero().tolist() for site in (neurons, every)}
    assert changed[neurons] == [[3, 0], [3, 1]]
    assert changed[every] == [[1, 3], [1, 4]]


def test_removing_a_neuron_lowers_its_coefficient_to_zero(llama: ms.Model) -> None:
    with llama.ablate([ms.FFNNeuron(1, 9)]):
        (activations,) = llama.language_model.capture([IDS])
    assert activations.coefficients[1, 9] == 0
    assert activations.coefficients[1, 8] != 0


def test_mean_ablation_puts_the_mean_there(llama: ms.Model) -> None:
    references = [words(3, 4, 5), words(60, 70)]
    kept = [
        llama.language_model.capture([ids[: i + 1]]) for ids in ((3, 4, 5), (60, 70)) for i in range(len(ids))
    ]
    mean = torch.stack([activations.coefficients[1, 9] for (activations,) in kept]).mean()
    with llama.ablate([ms.FFNNeuron(1, 9)], mean_of=references):
        (activations,) = llama.language_model.capture([IDS])
    assert activations.coefficients[1, 9] == pytest.approx(float(mean), abs=1e-5)


def test_contexts_nest_and_end_with_an_error(llama: ms.Model) -> None:
    model = llama.language_model.model
    before = logits(model)
    with llama.ablate(PARTS["heads"]):
        outer = logits(model)
        with contextlib.suppress(KeyError), llama.ablate(PARTS["layers"]):
            assert not torch.equal(logits(model), outer)
            raise KeyError
        assert torch.equal(logits(model), outer)
    assert torch.equal(logits(model), before)


def test_attribute_sees_ffn_ablation_and_refuses_the_others(llama: ms.Model) -> None:
    first = llama.attribute(PROMPT, 40, top=1).ffn_neurons
    with llama.ablate(first):
        again = llama.attribute(PROMPT, 40, top=1)
    assert tuple(again.ffn_neurons.iloc[0][["layer", "neuron"]]) != tuple(first.iloc[0][["layer", "neuron"]])
    with llama.ablate([ms.Head(0, 0)]), pytest.raises(ms.OptionError, match="would not add up"):
        llama.attribute(PROMPT, 40)
    llama.attribute(PROMPT, 40, top=1)


def test_tables_of_a_result_name_their_parts(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, 40, top=3)
    for table in (result.ffn_neurons, result.attention_neurons, result.heads.head(2), result.layers.head(1)):
        with llama.ablate(table):
            assert llama.predict(PROMPT).table["probability"].is_monotonic_decreasing


def test_controls_match_in_kind_number_and_layer(llama: ms.Model) -> None:
    parts = [*PARTS["FFN neurons"], *PARTS["attention neurons"], *PARTS["heads"]]
    drawn = matched_random(parts, llama.language_model.structure, seed=3)
    assert sorted((type(p).__name__, p.layer) for p in drawn) == sorted(
        (type(p).__name__, p.layer) for p in parts
    )
    assert not set(drawn) & set(parts)
    assert drawn == matched_random(parts, llama.language_model.structure, seed=3)
    assert drawn != matched_random(parts, llama.language_model.structure, seed=4)


def test_the_comparison_reports_before_after_and_controls(llama: ms.Model) -> None:
    parts = llama.attribute(PROMPT, 40, top=10).ffn_neurons
    found = llama.compare_ablation(PROMPT, 40, parts, seeds=3)
    assert found.before["log_probability"] == pytest.approx(
        llama.attribute(PROMPT, 40, top=1).target.log_probability, abs=1e-4
    )
    with llama.ablate(parts):
        after = llama.attribute(PROMPT, 40, top=1).target
    assert found.after["log_probability"] == pytest.approx(after.log_probability, abs=1e-4)
    assert found.after["reciprocal_rank"] == 1 / after.rank
    assert list(found.controls["seed"]) == [0, 1, 2]
    assert found.controls_standard_deviation["log_probability"] > 0
    assert found.to_json()["parts"][0]["part"] == "FFNNeuron"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.edit([]), "no parts"),
        (lambda m: m.edit([ms.FFNNeuron(3, 0)]), "layer goes from 0 to 2"),
        (lambda m: m.edit([ms.FFNNeuron(0, 48)]), "neuron goes from 0 to 47"),
        (lambda m: m.edit([ms.FFNNeuron(0, -1)]), "neuron goes from 0"),
        (lambda m: m.edit([ms.Head(0, 4)]), "head goes from 0 to 3"),
        (lambda m: m.edit([ms.AttentionNeuron(0, 0, 8)]), "dim goes from 0 to 7"),
        (lambda m: m.edit([ms.Layer(0, "mlp")]), "no such kind"),
        (lambda m: m.edit([(0, 3)]), "is no part"),
        (lambda m: m.edit(pd.DataFrame({"score": [1.0]})), "names no parts"),
        (lambda m: m.compare_ablation(PROMPT, 4, [ms.Head(0, 0)], seeds=0), "seeds is 0"),
        (lambda m: m.compare_ablation(PROMPT, 4, [ms.Head(0, 0)], positions=[5]), "position 5 is outside"),
    ],
)
def test_what_is_not_there_is_refused_in_words(
    llama: ms.Model, call: Callable[[ms.Model], object], message: str
) -> None:
    with pytest.raises(ms.OptionError, match=message) as caught:
        call(llama)
    assert "\n" not in str(caught.value)
    assert hooks(llama.language_model.model) == 0


def one_by_one(model: ms.Model, parts: list, **how: object) -> list[float]:
    before = logits(model.language_model.model)[0, -1].log_softmax(-1)[40]
    drops = []
    for part in parts:
        with model.ablate([part], **how):
            drops.append(float(before - logits(model.language_model.model)[0, -1].log_softmax(-1)[40]))
    return drops


MIXED = [*PARTS["FFN neurons"], *PARTS["attention neurons"], *PARTS["heads"], *PARTS["layers"]]


@TINY_FEW
@pytest.mark.parametrize("how", [{}, {"factor": 0.5}, {"positions": [-1]}, {"positions": [0, 2]}])
def test_single_ablations_equal_one_by_one(tiny: ms.Model, how: dict[str, object]) -> None:
    found = tiny.single_ablations(PROMPT, 40, MIXED, **how)
    assert found["drop"].tolist() == pytest.approx(one_by_one(tiny, MIXED, **how), abs=1e-4)
    assert found["drop"].abs().max() > 1e-3
    assert hooks(tiny.language_model.model) == 0


def test_single_ablations_keep_to_a_small_budget(llama: ms.Model) -> None:
    neurons = [ms.FFNNeuron(1, neuron) for neuron in range(48)]
    plenty = llama.single_ablations(PROMPT, 40, neurons)
    little = llama.single_ablations(PROMPT, 40, neurons, memory_budget=1)
    assert plenty["drop"].to_numpy() == pytest.approx(little["drop"].to_numpy(), abs=1e-5)
    assert list(plenty.columns) == ["layer", "neuron", "drop"]


def test_single_ablations_refuse_what_is_not_there(llama: ms.Model) -> None:
    with pytest.raises(ms.OptionError, match="neuron goes from 0 to 47"):
        llama.single_ablations(PROMPT, 40, [ms.FFNNeuron(0, 48)])
    with pytest.raises(ms.OptionError, match="position 9 is outside"):
        llama.single_ablations(PROMPT, 40, [ms.FFNNeuron(0, 4)], positions=[9])


def test_the_state_before_is_that_of_the_same_target(llama: ms.Model) -> None:
    prompt, states = words(5, 17, 80), []

    def keep(name: str, values: Any) -> None:
        if name == "target":
            states.append(values[0])

    first = llama.compare_ablation(prompt, " w40", [ms.Head(1, 0)], seeds=1, report=keep)
    kept = llama.compare_ablation(prompt, " w40", [ms.Head(1, 0)], seeds=1, before=states[0])
    assert (kept.before, kept.after) == (first.before, first.after)
    for other in ((prompt, " w41"), (words(5, 17), " w40")):
        with pytest.raises(OptionError, match="another prompt or target"):
            llama.compare_ablation(*other, [ms.Head(1, 0)], before=states[0])


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e308])
def test_a_change_that_leaves_no_prediction_is_refused(llama: ms.Model, factor: float) -> None:
    """NaN is above nothing, so a target would be of rank 1."""
    parts, prompt = [ms.Head(1, 0)], words(5, 17, 80)
    calls = (
        lambda: llama.compare_ablation(prompt, 7, parts, factor=factor, seeds=1),
        lambda: llama.ablate_each(prompt, 7, [parts], factor=factor),
        lambda: llama.single_ablations(prompt, 7, parts, factor=factor),
    )
    for call in calls:
        with pytest.raises(ms.OptionError, match="give a"):
            call()
    for call in (lambda: llama.predict(prompt), lambda: llama.generate(prompt, 2)):
        with pytest.raises(ms.OptionError, match="give a"), llama.ablate(parts, factor=factor):
            call()
    with pytest.raises((ms.OptionError, ms.UnsupportedModelError)):
        llama.edit(parts, factor=factor)
