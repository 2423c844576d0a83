"""Parts, positions and controls: none is dropped, and each is as large as what it stands for."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mnemoscope as ms
from command_line import printed
from mnemoscope._arguments import whole_number
from mnemoscope.intervention.controls import matched_random
from mnemoscope.study.comparison import Terms, compare_methods
from mnemoscope.study.facts import Fact, resolve
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.tasks import check_controls
from support import built, open_tiny, words

IDS = (5, 17, 80, 33, 61)
PROMPT = words(*IDS)
TARGET = 40
BOTH = [ms.FFNNeuron(1, 3), ms.Head(1, 3)]


def log_p_without(neuron: tuple[int, int] | None, head: tuple[int, int] | None) -> float:
    """By float64 hooks on the tiny Llama's own modules."""
    model: Any = copy.deepcopy(built("llama")).double()
    d_head = model.config.head_dim

    def zeroing(some: slice) -> Any:
        def hook(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            changed = args[0].clone()
            changed[..., some] = 0
            return (changed,)

        return hook

    if neuron is not None:
        module = model.model.layers[neuron[0]].mlp.down_proj
        module.register_forward_pre_hook(zeroing(slice(neuron[1], neuron[1] + 1)))
    if head is not None:
        module = model.model.layers[head[0]].self_attn.o_proj
        module.register_forward_pre_hook(zeroing(slice(head[1] * d_head, (head[1] + 1) * d_head)))
    with torch.no_grad():
        return float(model(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)[TARGET])


def test_parts_of_different_types_differ() -> None:
    named = [ms.FFNNeuron(1, 3), ms.Head(1, 3), ms.AttentionNeuron(1, 3, 0), ms.Layer(1, "ffn")]
    assert len(set(named)) == 4
    assert ms.FFNNeuron(1, 3) != ms.Head(1, 3)
    assert ms.FFNNeuron(1, 3) != (1, 3)
    assert ms.FFNNeuron(1, 3) == ms.FFNNeuron(1, 3) == copy.deepcopy(ms.FFNNeuron(1, 3))
    with pytest.raises(FrozenInstanceError):
        named[0].layer = 2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "number", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), 3.0, np.float32(3)]
)
def test_whole_numbers_of_any_library_are_numbers(number: Any) -> None:
    part = ms.FFNNeuron(number, number)
    assert part == ms.FFNNeuron(3, 3)
    assert (type(part.layer), type(part.neuron)) == (int, int)
    assert json.dumps(part.to_json()) == '{"layer": 3, "neuron": 3}'


@pytest.mark.parametrize(
    "value", [True, np.True_, torch.tensor(True), 1.5, float("nan"), "3", None, pd.NA, [3]]
)
def test_anything_else_is_refused(value: Any) -> None:
    assert whole_number(value) is None
    with pytest.raises(ms.OptionError, match="give a whole number") as caught:
        ms.Head(0, value)
    assert "\n" not in str(caught.value)


def test_a_float_column_of_a_table_names_neurons(llama: ms.Model) -> None:
    table = pd.DataFrame({"layer": [1.0], "neuron": [3.0]})
    found = llama.compare_ablation(PROMPT, TARGET, table, seeds=1)
    assert found.parts == (ms.FFNNeuron(1, 3),)
    assert found.after["log_probability"] == pytest.approx(log_p_without((1, 3), None), abs=1e-5)


def test_a_neuron_and_a_head_of_the_same_numbers_are_both_removed(llama: ms.Model, tmp_path: Path) -> None:
    expected = log_p_without((1, 3), (1, 3))
    for alone in (log_p_without((1, 3), None), log_p_without(None, (1, 3))):
        assert abs(alone - expected) > 1e-3
    found = llama.compare_ablation(PROMPT, TARGET, BOTH, seeds=1)
    each = llama.ablate_each(PROMPT, TARGET, [BOTH])
    assert found.parts == tuple(BOTH)
    assert found.after["log_probability"] == pytest.approx(expected, abs=1e-5)
    assert each["log_probability"][0] == pytest.approx(expected, abs=1e-5)
    llama.language_model.model.save_pretrained(tmp_path)
    llama.language_model.tokenizer.save_pretrained(tmp_path)
    command = ["ablate", PROMPT, "--target", " w40", "--model", str(tmp_path), "--seeds", "1", "--json"]
    told = json.loads(printed(*command, "--ffn", "1.3", "--head", "1.3"))
    assert told["after"]["log_probability"] == pytest.approx(expected, abs=1e-5)
    assert told["controls_from"] == "the same layers"
    # --top is heeded beside a part.
    best = llama.attribute(PROMPT, TARGET, top=2).ffn_neurons[["layer", "neuron"]].to_dict("records")
    told = json.loads(printed(*command, "--top", "2", "--head", "1.3"))
    assert told["parts"] == [
        *({"part": "FFNNeuron", **row} for row in best),
        {"part": "Head", "layer": 1, "head": 3},
    ]


@pytest.mark.parametrize(
    "positions", [[np.int64(-1)], torch.tensor([-1]), np.array([4]), (4.0,), range(4, 5), [torch.tensor(4)]]
)
def test_positions_of_any_library_are_positions(llama: ms.Model, positions: Any) -> None:
    found = llama.ablate_each(PROMPT, TARGET, [BOTH], positions=positions)
    expected = llama.ablate_each(PROMPT, TARGET, [BOTH], positions=[-1])
    assert found.equals(expected)
    compared = llama.compare_ablation(PROMPT, TARGET, BOTH, seeds=1, positions=positions)
    assert compared.after["log_probability"] == pytest.approx(expected["log_probability"][0], abs=1e-5)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (-1, "give a list"),
        ("-1", "give a list"),
        (torch.tensor(1), "give a list"),
        ([1.5], "not a whole number"),
        ([True], "not a whole number"),
        ([], "positions is empty"),
        ([5], "outside the prompt of 5 tokens"),
        ([-6], "outside the prompt of 5 tokens"),
    ],
)
def test_other_positions_are_refused_in_words(llama: ms.Model, positions: Any, message: str) -> None:
    with pytest.raises(ms.OptionError, match=message), llama.ablate(BOTH, positions=positions):
        llama.predict(PROMPT)
    with pytest.raises(ms.OptionError, match=message):
        llama.ablate_each(PROMPT, TARGET, [BOTH], positions=positions)
    with pytest.raises(ms.OptionError, match=message):
        llama.compare_ablation(PROMPT, TARGET, BOTH, seeds=1, positions=positions)


LARGE = {
    "3 of 4 heads": [ms.Head(1, head) for head in range(3)],
    "all heads": [ms.Head(1, head) for head in range(4)],
    "40 of 48 neurons": [ms.FFNNeuron(1, neuron) for neuron in range(40)],
    "20 of 32 attention neurons": [ms.AttentionNeuron(1, n // 8, n % 8) for n in range(20)],
}


@pytest.mark.parametrize("which", LARGE)
def test_a_control_is_as_large_as_the_intervention_or_refused(llama: ms.Model, which: str) -> None:
    parts = LARGE[which]
    with pytest.raises(ms.OptionError, match="random control of the same size") as caught:
        llama.compare_ablation(PROMPT, TARGET, parts, seeds=1)
    assert "\n" not in str(caught.value)
    structure, in_layer = llama.language_model.structure, 0
    for seed in range(5):
        drawn = matched_random(parts, structure, seed, "any layer")
        assert Counter(map(type, drawn)) == Counter(map(type, parts))
        assert len(set(drawn)) == len(parts)
        assert not set(drawn) & set(parts)
        in_layer = Counter(part.layer for part in drawn)[1]
        assert in_layer == min(len(parts), {"3": 1, "a": 0, "4": 8, "2": 12}[which[0]])
    found = llama.compare_ablation(PROMPT, TARGET, parts, seeds=2, controls_from="any layer")
    n_elsewhere = len(parts) - in_layer
    assert found.controls_from == f"the same layers, {n_elsewhere} of {len(parts)} from other layers"
    assert (found.controls["log_probability"] - found.before["log_probability"]).abs().min() > 1e-6
    assert found.to_json()["controls_from"] == found.controls_from


def test_what_no_layer_has_is_refused(llama: ms.Model) -> None:
    every = [ms.Head(layer, head) for layer in range(llama.n_layers) for head in range(llama.n_heads)]
    with pytest.raises(ms.OptionError, match="too few other heads"):
        llama.compare_ablation(PROMPT, TARGET, every, seeds=1, controls_from="any layer")
    whole = [ms.Layer(layer, "ffn") for layer in range(llama.n_layers)]
    with pytest.raises(ms.OptionError, match="too few other layers"):
        llama.compare_ablation(PROMPT, TARGET, [*whole, ms.Layer(0, "attention")], seeds=1)
    with pytest.raises(ms.OptionError, match="controls_from is 'all'"):
        llama.compare_ablation(PROMPT, TARGET, BOTH, controls_from="all")  # pyright: ignore[reportArgumentType]


def test_a_control_shares_no_input_with_the_intervention(llama: ms.Model) -> None:
    parts = [
        ms.Head(1, 0),
        ms.AttentionNeuron(1, 1, 3),
        ms.AttentionNeuron(1, 0, 2),
        ms.Layer(0, "attention"),
    ]
    for seed in range(20):
        drawn = matched_random(parts, llama.language_model.structure, seed)
        # The attention neuron inside the head adds nothing.
        assert Counter(map(type, drawn)) == {ms.Head: 1, ms.AttentionNeuron: 1, ms.Layer: 1}
        layer, head, neuron = drawn
        assert isinstance(layer, ms.Layer)
        assert isinstance(head, ms.Head)
        assert isinstance(neuron, ms.AttentionNeuron)
        assert (layer.layer, layer.kind) not in {(0, "attention"), (1, "attention")}
        assert head.head in {2, 3}
        assert neuron.head in {1, 2, 3} - {head.head}
        assert (neuron.head, neuron.dim) != (1, 3)


def test_comparisons_and_studies_refuse_before_any_work(llama: ms.Model) -> None:
    facts, _ = resolve(llama.language_model, [Fact(1, PROMPT, "w40", "number")])
    with pytest.raises(ms.OptionError, match="give at most 24 or draw the rest from other layers"):
        compare_methods(llama, facts, Terms(top=25))
    Terms(top=72, controls_from="any layer").check(llama.language_model.structure)
    with pytest.raises(ms.OptionError, match="give at most 72"):
        Terms(top=73, controls_from="any layer").check(llama.language_model.structure)
    check_controls(StudyOptions(attention_neurons=48, ffn_neurons=72), llama.language_model.structure)
    with pytest.raises(ms.OptionError, match="attention_neurons is 49"):
        check_controls(StudyOptions(attention_neurons=49, ffn_neurons=72), llama.language_model.structure)


def test_neurons_of_silent_experts_are_no_control() -> None:
    model = open_tiny(built("mixtral"))
    structure = model.language_model.structure
    size = structure.mixtures[0].d_expert
    parts = [ms.FFNNeuron(0, size + n) for n in range(size - 3)]
    with pytest.raises(ms.OptionError, match=f"of the {size} FFN neurons of an expert of layer 0") as told:
        matched_random(parts, structure, 0)
    assert '(controls_from="any layer"; on the command line --controls-from "any layer")' in str(told.value)
    with pytest.raises(ms.OptionError, match="too few other FFN neurons"):
        matched_random(parts, structure, 0, "any layer")
