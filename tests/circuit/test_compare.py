"""Comparisons of methods that find circuits: what a folder keeps is of the same model, pairs and methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from circuit_tasks import told_apart
from mnemoscope.circuit import compare
from mnemoscope.circuit.find import CircuitOptions
from mnemoscope.circuit.scores import METHODS
from mnemoscope.errors import OptionError, OutputError
from support import built, open_tiny, save_tiny

OPTIONS = CircuitOptions(size=5)
METHOD_NAMES = ("relp", "cna")


def compared(model: ms.Model, out: Path | None, *methods: str, **options: object) -> ms.CircuitComparison:
    pairs = told_apart(model)
    arguments = {"options": OPTIONS, "out": out, **options}
    return model.compare_circuits({"task": pairs}, methods or METHOD_NAMES, **arguments)  # type: ignore[arg-type]


@pytest.fixture
def nothing_is_sought(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the search for a circuit, and for an agreement, an error from a call on."""

    def forbid(*_: object) -> None:
        raise AssertionError("a circuit is sought")

    def begin() -> None:
        monkeypatch.setattr(compare, "choose_and_measure", forbid)
        monkeypatch.setattr(compare, "agreement", forbid)

    return begin


def test_the_same_call_reads_what_is_kept(
    llama: ms.Model, tmp_path: Path, nothing_is_sought: Callable[[], None]
) -> None:
    first = compared(llama, tmp_path, exact=10)
    nothing_is_sought()
    again = compared(llama, tmp_path, exact=10)
    assert again.to_json() == first.to_json()
    pd.testing.assert_frame_equal(again.agreement, first.agreement)
    equal = open_tiny(built("llama"))
    assert compared(equal, tmp_path, exact=10).to_json() == first.to_json()


def scale_in_place(model: ms.Model) -> None:
    with torch.no_grad():
        model.hf_model.model.layers[1].mlp.down_proj.weight.mul_(1.5)


def scale_out_of_sight(model: ms.Model) -> None:
    model.hf_model.model.layers[1].mlp.down_proj.weight.data[:, 3] *= 1.5


def another_norm(model: ms.Model) -> None:
    model.hf_model.config.rms_norm_eps *= 2


@pytest.mark.parametrize("change", [scale_in_place, scale_out_of_sight, another_norm])
def test_circuits_of_other_weights_in_memory_are_refused(
    tmp_path: Path, change: Callable[[ms.Model], None], nothing_is_sought: Callable[[], None]
) -> None:
    compared(open_tiny(built("llama")), tmp_path)
    other = open_tiny(built("llama"))
    pairs = told_apart(other)
    change(other)
    nothing_is_sought()
    with pytest.raises(OutputError, match=r"relp\.json is of another comparison"):
        other.compare_circuits({"task": pairs}, METHOD_NAMES, options=OPTIONS, out=tmp_path)


def test_circuits_of_other_weights_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    llama = built("llama")
    model = ms.load(save_tiny(llama, tmp_path / "model"))
    pairs = told_apart(model)
    model.compare_circuits({"task": pairs}, METHOD_NAMES, options=OPTIONS, out=tmp_path / "out")
    with torch.no_grad():
        llama.get_input_embeddings().weight[5] *= 2
    other = ms.load(save_tiny(llama, tmp_path / "model"))
    assert other.revision == model.revision
    with pytest.raises(OutputError, match=r"relp\.json is of another comparison"):
        other.compare_circuits({"task": pairs}, METHOD_NAMES, options=OPTIONS, out=tmp_path / "out")


@pytest.mark.parametrize("change", ["methods", "pairs", "options", "weights"])
def test_an_agreement_of_something_else_is_refused(
    tmp_path: Path, change: str, nothing_is_sought: Callable[[], None]
) -> None:
    model = open_tiny(built("llama"))
    pairs, methods, options = told_apart(model), ["relp"], OPTIONS
    found = model.compare_circuits({"task": pairs}, methods, options=options, exact=6, out=tmp_path)
    assert found.agreement["method"].tolist() == ["relp"]
    (tmp_path / "task.relp.json").unlink()
    if change == "methods":
        methods = ["relp", "cna"]
    elif change == "pairs":
        pairs = [*pairs[2:], *pairs[:2]]
    elif change == "options":
        options = replace(options, ablation="zero")
    else:
        scale_out_of_sight(model)
    nothing_is_sought()
    with pytest.raises(OutputError, match=r"task\.exact_6\.json is of another comparison"):
        model.compare_circuits({"task": pairs}, methods, options=options, exact=6, out=tmp_path)


def test_pairs_are_scored_once_for_circuits_and_agreement(
    llama: ms.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Tensor]:
        usual = METHODS[name].of_batch

        def of_batch(*given: object) -> Tensor:
            counts[name] += 1
            return usual(*given)  # type: ignore[arg-type]

        return of_batch

    for name in METHOD_NAMES:
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], of_batch=counted(name)))
    # Once to choose the circuit, and once for each pair of the agreement.
    compared(llama, None, exact=6)
    assert counts == dict.fromkeys(METHOD_NAMES, 2)


def test_exact_patching_needs_a_method_that_scores(llama: ms.Model) -> None:
    with pytest.raises(OptionError, match="greedy is a search; name a method that scores nodes too"):
        compared(llama, None, "greedy", exact=6)
