"""Subject-verb agreement in the demo model: RelP, the greedy search, and correlation with exact patching."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import mnemoscope as ms
from circuit_tasks import agreement_file
from mnemoscope.circuit.compare import agreement
from mnemoscope.circuit.find import CircuitOptions, Prepared, encode_task, greedy, prepare
from mnemoscope.circuit.measure import first, ranked
from mnemoscope.circuit.scores import METHODS, score_nodes
from mnemoscope.circuit.tasks import read_pairs
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.isolation import isolated


@pytest.fixture(autouse=True)
def _alone(demo: ms.Model) -> Iterator[None]:
    """Hold the model: these tests run it below the calls that take turns with a server of other tests."""
    with isolated(demo.language_model.model):
        yield


def prepared(demo: ms.Model, task: str, limit: int) -> Prepared:
    train, test = (read_pairs(agreement_file(f"{task}_{side}.jsonl")) for side in ("train", "test"))
    options = CircuitOptions(positions=True, limit=limit)
    encoded = encode_task(demo.language_model, train, test, options)
    return prepare(demo.language_model, *encoded, options, MEMORY_BUDGET)


def test_thirty_neurons_of_relp_carry_agreement(demo: ms.Model) -> None:
    task = prepared(demo, "simple", 40)
    order = ranked(score_nodes(METHODS["relp"], task.train.runner))
    f, k = task.test.faithfulness_and_completeness(first(order, 30))
    assert f.value >= 0.9
    assert abs(k.value) < 0.15


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name",
    [
        "simple",
        pytest.param("nounpp", marks=pytest.mark.xfail(reason="K of the search is 0.17 on the test pairs")),
    ],
)
def test_relp_and_the_search_on_100_pairs(demo: ms.Model, name: str) -> None:
    task = prepared(demo, name, 100)
    order = ranked(score_nodes(METHODS["relp"], task.train.runner))
    needed = next(n for n in range(1, 31) if task.test.faithfulness(first(order, n)) >= 0.9)
    chosen = greedy(task.train, order, None, None)
    kept = torch.zeros(task.space.n_nodes, dtype=torch.bool)
    kept[chosen] = True
    f, k = task.test.faithfulness_and_completeness(kept)
    assert 0.9 <= f.value <= 1.1
    assert k.value <= 0.1
    assert len(chosen) < needed


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "simple", marks=pytest.mark.xfail(reason="0.959 for RelP, 0.965 for AtP: no difference")
        ),
        "nounpp",
    ],
)
def test_relp_is_nearer_to_exact_patching_than_attribution_patching(demo: ms.Model, name: str) -> None:
    train = prepared(demo, name, 100).train
    scores = {method: score_nodes(METHODS[method], train.runner) for method in ("relp", "atp")}
    pearson = agreement(train, scores, 200).set_index("method")["pearson"]
    assert pearson["relp"] > pearson["atp"]
