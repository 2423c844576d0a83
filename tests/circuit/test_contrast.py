"""Contrast of activations between two sets of prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mnemoscope as ms
from command_line import printed
from support import words

POSITIVE = [words(5, 17, 80), words(9, 33), words(3, 4, 5, 6)]
NEGATIVE = [words(40, 41), words(50, 60, 70)]


def last_coefficients(model: ms.Model, prompts: list[list[int]]) -> torch.Tensor:
    """Coefficients of all FFN neurons at the last position, one prompt at a time, their mean."""
    caches = [model.language_model.capture([prompt])[0] for prompt in prompts]
    return torch.stack([torch.as_tensor(cache.coefficients) for cache in caches]).mean(0)


def test_scores_are_differences_of_mean_activations(tiny: ms.Model) -> None:
    found = tiny.contrast(POSITIVE, NEGATIVE, top=20)
    positive, negative = (
        last_coefficients(tiny, [list(tiny.prompt(prompt).ids) for prompt in prompts])
        for prompts in (POSITIVE, NEGATIVE)
    )
    for row in found.itertuples():
        assert row.positive == pytest.approx(float(positive[row.layer, row.neuron]), abs=1e-5)
        assert row.negative == pytest.approx(float(negative[row.layer, row.neuron]), abs=1e-5)
    differences = (positive - negative).abs().flatten().sort(descending=True).values[:20]
    assert found["score"].to_numpy() == pytest.approx(differences.numpy(), abs=1e-5)


def test_the_neurons_can_be_ablated(llama: ms.Model) -> None:
    found = llama.contrast(POSITIVE, NEGATIVE, kinds=("ffn", "attention"), top=200)
    assert set(found["kind"]) == {"ffn", "attention"}
    before = llama.predict(POSITIVE[0]).table
    with llama.ablate(found):
        assert not before.equals(llama.predict(POSITIVE[0]).table)


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        (([], NEGATIVE), {}, "no positive prompts"),
        ((POSITIVE, []), {}, "no negative prompts"),
        ((POSITIVE, NEGATIVE), {"kinds": ("head",)}, "no single activation"),
        ((POSITIVE, NEGATIVE), {"top": 0}, "top is 0"),
    ],
)
def test_mistakes(llama: ms.Model, sets: tuple, options: dict, message: str) -> None:
    with pytest.raises(ms.OptionError, match=message):
        llama.contrast(*sets, **options)


def test_the_command_prints_the_neurons(llama_folder: str, llama: ms.Model, tmp_path: Path) -> None:
    paths = []
    for name, prompts in (("positive", ["w5 w17", "w9 w33 w2"]), ("negative", ["w40 w41"])):
        paths.append(tmp_path / f"{name}.txt")
        paths[-1].write_text("\n".join(prompts) + "\n")
    command = ["circuit", "contrast", *map(str, paths), "--model", llama_folder, "--top", "4"]
    found = json.loads(printed(*command, "--json"))["neurons"]
    assert len(found) == 4
    assert found[0]["score"] == pytest.approx(abs(found[0]["positive"] - found[0]["negative"]), rel=1e-5)
    assert f"ffn {found[0]['layer']}.{found[0]['neuron']}" in printed(*command)
