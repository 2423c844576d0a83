"""Methods on equal terms: what is measured of them is what zeroing their neurons does."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mnemoscope as ms
from mnemoscope.attribution.methods.registry import method
from mnemoscope.errors import OutputError
from mnemoscope.model.families.registry import FAMILIES
from mnemoscope.results.parts import FFNNeuron
from mnemoscope.study.columns import NONE
from mnemoscope.study.comparison import MEASURES, Comparison, Terms, compare_methods
from mnemoscope.study.comparison_effects import CONTROLS
from mnemoscope.study.facts import Fact, ResolvedFact, resolve
from support import open_tiny, words

METHODS = ("norm", "activation-gradient")
TERMS = Terms(methods=tuple(map(method, METHODS)), top=3, n_random=10, n_controls=2)
TIMES = ["seconds", "passes"]
N_FACTS = 4

# Compares until it is killed, and tells each fact that is done.
WORKER = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from test_comparison import TERMS, some_facts, tiny_llama
from mnemoscope.study.comparison import compare_methods
model = tiny_llama()
told = lambda done, total: print(done, total, flush=True)
compare_methods(model, some_facts(model), TERMS, out=Path(sys.argv[1]), report=told)
"""


def tiny_llama() -> ms.Model:
    """The same in every process."""
    torch.manual_seed(0)
    return open_tiny(next(f for f in FAMILIES if f.model_type == "llama").build())


def some_facts(model: ms.Model, n: int = N_FACTS) -> list[ResolvedFact]:
    facts = [Fact(line, words(5, 17 + line, 80, 33), f"w{40 + line}", "number") for line in range(1, n + 1)]
    resolved, bad_lines = resolve(model.language_model, facts)
    assert not bad_lines
    return resolved


@pytest.fixture(scope="module")
def model() -> ms.Model:
    return tiny_llama()


@pytest.fixture(scope="module")
def facts(model: ms.Model) -> list[ResolvedFact]:
    return some_facts(model)


@pytest.fixture(scope="module")
def comparison(model: ms.Model, facts: list[ResolvedFact]) -> Comparison:
    told: list[tuple[int, int]] = []
    found = compare_methods(model, facts, TERMS, report=lambda *done: told.append(done))
    assert told == [(done, N_FACTS) for done in range(1, N_FACTS + 1)]
    return found


def test_a_row_for_each_fact_and_method_or_control(comparison: Comparison) -> None:
    told = ["line", "prompt", "target", "relation", "method", "title"]
    assert list(comparison.outcomes.columns) == [*told, *MEASURES, "neurons"]
    assert comparison.n_facts == N_FACTS
    for _, rows in comparison.outcomes.groupby("line"):
        assert list(rows["method"]) == [*CONTROLS, *METHODS]
        assert [len(neurons) for neurons in rows["neurons"]] == [0, 0, 0, 3, 3]


def test_controls_are_measured_without_a_method(comparison: Comparison) -> None:
    controls = comparison.outcomes[comparison.outcomes["method"].isin(CONTROLS)]
    assert controls[["spearman", "recall", *TIMES]].isna().all(axis=None)
    assert controls[["log_probability", "drop", "kl"]].notna().all(axis=None)
    untouched = controls[controls["method"] == NONE]
    assert untouched["drop"].to_list() == pytest.approx([0.0] * N_FACTS, abs=1e-5)
    assert (untouched["kl"] == 0).all()


def test_an_outcome_is_what_zeroing_the_neurons_does(model: ms.Model, comparison: Comparison) -> None:
    chosen = comparison.outcomes[comparison.outcomes["method"].isin(METHODS)]
    for row in chosen.itertuples():
        neurons = [FFNNeuron(*map(int, str(name).split("."))) for name in row.neurons]
        with model.ablate(neurons):
            table = model.predict(row.prompt, top=97).table.set_index("token")
            divergence = model.plain_text().effect().kl
        after = table.loc[row.target]
        assert row.log_probability == pytest.approx(after["log_probability"], abs=1e-5)
        assert row.probability == pytest.approx(after["probability"], rel=1e-4)
        assert row.reciprocal_rank == pytest.approx(1 / after["rank"])
        assert row.kl == pytest.approx(divergence, rel=1e-3, abs=1e-8)
        before = model.predict(row.prompt, top=97).table.set_index("token").loc[row.target]
        assert row.drop == pytest.approx(before["log_probability"] - after["log_probability"], abs=1e-5)


def test_exact_single_ablation_agrees_with_itself(model: ms.Model, facts: list[ResolvedFact]) -> None:
    terms = replace(TERMS, methods=(method("norm"), method("single-ablation")))
    outcomes = compare_methods(model, facts[:1], terms).outcomes.set_index("method")
    assert outcomes.loc["single-ablation", "spearman"] == pytest.approx(1)
    assert outcomes.loc["single-ablation", "recall"] == 1
    assert outcomes.loc["norm", "spearman"] < 0.9


def test_intervals_contain_the_mean(comparison: Comparison) -> None:
    summary = comparison.summary()
    assert list(summary["method"]) == [*CONTROLS, *METHODS]
    assert (summary["n_facts"] == N_FACTS).all()
    for name in MEASURES:
        there = summary[summary[name].notna()]
        rounding = 1e-9 * there[name].abs()
        assert (there[f"{name}_low"] <= there[name] + rounding).all()
        assert (there[name] <= there[f"{name}_high"] + rounding).all()
    means = comparison.outcomes.groupby("method", sort=False)["drop"].mean()
    assert summary.set_index("method")["drop"].to_dict() == pytest.approx(means.to_dict())
    assert (summary["drop_low"] < summary["drop_high"]).sum() >= len(METHODS)


def test_equal_values_have_no_interval(comparison: Comparison) -> None:
    outcomes = comparison.outcomes.assign(drop=0.25, spearman=np.nan)
    summary = replace(comparison, outcomes=outcomes).summary()
    for column in ("drop", "drop_low", "drop_high"):
        assert summary[column].to_list() == pytest.approx([0.25] * len(summary))
    assert summary[["spearman", "spearman_low", "spearman_high"]].isna().all(axis=None)


@pytest.mark.process
def test_a_killed_comparison_goes_on(
    model: ms.Model, facts: list[ResolvedFact], comparison: Comparison, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for done in (1, 2):
            assert process.stdout.readline() == f"{done} {N_FACTS}\n"
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    finished = {
        path.name: path.stat().st_mtime_ns for path in (folder / "tables" / "outcomes").glob("*.parquet")
    }
    assert 2 <= len(finished) < N_FACTS
    continued = compare_methods(model, facts, TERMS, out=folder)
    pd.testing.assert_frame_equal(
        continued.outcomes.drop(columns=[*TIMES, "neurons"]),
        comparison.outcomes.drop(columns=[*TIMES, "neurons"]),
        check_exact=False,
        check_dtype=False,
        rtol=1e-5,
        atol=1e-7,
    )
    assert [list(names) for names in continued.outcomes["neurons"]] == list(comparison.outcomes["neurons"])
    for name, written in finished.items():
        assert (folder / "tables" / "outcomes" / name).stat().st_mtime_ns == written
    others = replace(TERMS, top=4)
    with pytest.raises(OutputError, match=r"terms\.top is 3 there and 4 here"):
        compare_methods(model, facts, others, out=folder)
    with pytest.raises(OutputError, match="facts"):
        compare_methods(model, facts[:2], TERMS, out=folder)
    changed = tiny_llama()
    changed.hf_model.get_input_embeddings().weight.data[5] *= 2
    with pytest.raises(OutputError, match="which is another one: weights is"):
        compare_methods(changed, facts, TERMS, out=folder)
