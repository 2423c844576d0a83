"""Circuits of tiny and planted models: exact ends of the curve, equal runs, and the planted neurons found."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import process_time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import mnemoscope as ms
from circuit_tasks import planted_pairs, told_apart
from mnemoscope.circuit import edges
from mnemoscope.circuit.compare import chosen_nodes
from mnemoscope.circuit.find import UNROUTED, CircuitOptions, encode_task, prepare
from mnemoscope.circuit.measure import areas, curve_sizes, first, random_controls, ranked
from mnemoscope.circuit.running import site_values
from mnemoscope.circuit.scores import METHODS, score_nodes, scores_by_pair
from mnemoscope.errors import OptionError
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.report.text import circuit_summary
from mnemoscope.testing import Planted, planted_model
from support import FEW, built, open_tiny

KINDS = [("ffn",), ("attention",), ("ffn", "head")]


@pytest.fixture(scope="module", params=[*FEW, "opt"])
def few(request: pytest.FixtureRequest) -> ms.Model:
    return open_tiny(built(request.param))


# On each push every kind and every ablation once.
ENDS = [
    pytest.param(
        kinds, ablation, marks=[] if number == i else pytest.mark.nightly, id=f"{'+'.join(kinds)}-{ablation}"
    )
    for number, kinds in enumerate(KINDS)
    for i, ablation in enumerate(["mean", "patch", "zero"])
]


@pytest.mark.parametrize(("kinds", "ablation"), ENDS)
def test_no_node_gives_0_and_all_give_1_exactly(few: ms.Model, kinds: Sequence[str], ablation: str) -> None:
    for positions in (False, True):
        prepared = prepared_task(few, kinds=kinds, ablation=ablation, positions=positions)
        if prepared is None:
            continue
        every = torch.ones(prepared.space.n_nodes, dtype=torch.bool)
        assert prepared.test.faithfulness(~every) == 0
        assert prepared.test.faithfulness(every) == 1


def prepared_task(model: ms.Model, pairs: Sequence[ms.Pair] | None = None, **options: object):
    """A prepared task; None where all nodes together do not raise the answers."""
    pairs = told_apart(model) if pairs is None else pairs
    chosen = CircuitOptions(**options)  # type: ignore[arg-type]
    with suppress(OptionError):
        encoded = encode_task(model.language_model, pairs, None, chosen)
        return prepare(model.language_model, *encoded, chosen, MEMORY_BUDGET)
    return None


@pytest.mark.parametrize(
    "few",
    [
        pytest.param(name, marks=[] if name in ("gemma2", "mixtral") else pytest.mark.nightly)
        for name in (*FEW, "opt")
    ],
    indirect=True,
)
def test_a_circuit_kept_alone_by_ablate_is_as_faithful_as_measured(few: ms.Model) -> None:
    pairs = told_apart(few, 8)
    for positions in (False, True):
        circuit = few.circuit(pairs, size=20, positions=positions, kinds=("ffn", "head"))

        def mean(complement: bool | None, circuit: ms.Circuit = circuit) -> float:
            return float(np.mean([difference(few, pair, circuit, complement) for pair in circuit.test]))

        model, alone, others = mean(None), mean(True), mean(False)
        assert model == pytest.approx(circuit.logit_differences["model"], abs=1e-4)
        scale = model - circuit.logit_differences["ablated"]
        for value, ratio in ((alone, circuit.faithfulness), (others, circuit.completeness)):
            found = (value - circuit.logit_differences["ablated"]) / scale
            assert found == pytest.approx(ratio.value, abs=1e-3)


def difference(model: ms.Model, pair: ms.Pair, circuit: ms.Circuit, complement: bool | None) -> float:
    """The logit difference of a pair by the public calls; `complement` None ablates nothing."""
    if complement is None:
        run = model.run(pair.clean)
        found = run.predict(10**6)
    else:
        with model.ablate(circuit, complement=complement):
            found = model.predict(pair.clean, 10**6)
    by_token = dict(zip(found.table["token"].str.strip(), found.table["log_probability"], strict=True))
    return by_token[pair.answer.strip()] - by_token[pair.counterfactual_answer.strip()]


def test_two_runs_write_the_same_bytes(llama: ms.Model, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.json" for i in range(2)]
    for path in paths:
        llama.circuit(told_apart(llama), method="greedy", positions=True).save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_a_saved_circuit_is_read_back(llama: ms.Model, tmp_path: Path, ending: str) -> None:
    circuit = llama.circuit(told_apart(llama), size=7, kinds=("ffn", "attention"))
    read = ms.Circuit.load(circuit.save(tmp_path / f"circuit.{ending}"))
    assert read.to_json() == circuit.to_json()
    for name, table in circuit.tables().items():
        assert read.tables()[name].equals(table)


# On each push every method once, but the one that patches each neuron.
PLANTED = [
    ("gpt2", "relp"),
    ("gpt2", "eap-ig"),
    ("llama", "atp"),
    ("llama", "direct"),
    ("llama", "greedy"),
    *(
        pytest.param(architecture, method, marks=pytest.mark.nightly)
        for architecture, methods in {
            "gpt2": ["atp", "direct", "greedy", "exact"],
            "llama": ["relp", "eap-ig", "exact"],
        }.items()
        for method in methods
    ),
]


@cache
def opened_planted(architecture: str) -> tuple[Planted, ms.Model]:
    planted = planted_model(architecture)  # type: ignore[arg-type]
    return planted, ms.load((planted.model, planted.tokenizer))


@pytest.mark.parametrize(("architecture", "method"), PLANTED)
def test_the_planted_neurons_are_the_circuit(architecture: str, method: str) -> None:
    planted, model = opened_planted(architecture)
    fact, other = planted.facts[0], planted.facts[2]
    pairs = planted_pairs(planted, 0, 2)
    last = len(fact.prompt.split()) - 1
    # With zeros only the answer's neurons differ; with patches those of the other answer fire, too.
    for ablation, neurons in (("zero", fact.ffn_neurons), ("patch", fact.ffn_neurons + other.ffn_neurons)):
        options = {"method": method, "ablation": ablation, "positions": True}
        circuit = model.circuit(pairs, size=len(neurons), **options)  # type: ignore[arg-type]
        found = circuit.nodes[["layer", "neuron", "position"]].itertuples(index=False, name=None)
        assert sorted(found) == sorted((*neuron, last) for neuron in neurons)
        assert 0.9 < circuit.faithfulness.value < 1.1
        assert abs(circuit.completeness.value) < 0.1


def test_the_planted_head_is_the_circuit() -> None:
    planted, model = opened_planted("llama")
    circuit = model.circuit(planted_pairs(planted, 0, 2), kinds=("head",), ablation="patch")
    found = circuit.nodes[["layer", "head"]].itertuples(index=False, name=None)
    assert tuple(found) == planted.facts[0].heads


def test_the_complement_of_the_complement_is_the_circuit(llama: ms.Model) -> None:
    prepared = prepared_task(llama)
    assert prepared is not None
    kept = first(ranked(score_nodes(METHODS["relp"], prepared.train.runner)), 9)
    f, k = prepared.test.faithfulness_and_completeness(kept)
    assert prepared.test.faithfulness_and_completeness(~kept) == (k, f)


@pytest.mark.parametrize("method", ["relp", "atp"])
def test_scores_of_the_last_layer_are_direct_effects(few: ms.Model, method: str) -> None:
    prepared = prepared_task(few, positions=True)
    structure = few.language_model.structure
    if prepared is None or structure.readout.soft_cap is not None or structure.mixtures:
        pytest.skip("logits are capped, gradients do not reach experts without the token, or no node counts")
    runner, last = prepared.train.runner, prepared.space.groups[-1].start
    direct = score_nodes(METHODS["direct"], runner)[last:]
    scores = score_nodes(METHODS[method], runner)[last:]
    # RelP freezes the final norm as the direct effect does; attribution patching does not.
    assert torch.allclose(scores, direct, atol=1e-5) == (method == "relp")


def test_exact_scores_are_falls_of_the_logit_difference(llama: ms.Model) -> None:
    prepared = prepared_task(llama, ablation="zero")
    assert prepared is not None
    scores = score_nodes(METHODS["exact"], prepared.train.runner)
    node = int(scores.argmax())
    (part,) = prepared.space.table(torch.tensor([node]), scores[[node]]).itertuples(index=False)
    falls = []
    for pair in told_apart(llama)[::2]:
        with llama.ablate([ms.FFNNeuron(part.layer, part.neuron)]):
            after = llama.predict(pair.clean, 10**6)
        before = llama.predict(pair.clean, 10**6)
        falls.append(logit_difference(before, pair) - logit_difference(after, pair))
    assert float(scores[node]) == pytest.approx(np.mean(falls), abs=1e-4)


def logit_difference(prediction: ms.Prediction, pair: ms.Pair) -> float:
    table = prediction.table.assign(token=prediction.table["token"].str.strip()).set_index("token")
    answers = [table["log_probability"][text.strip()] for text in (pair.answer, pair.counterfactual_answer)]
    return answers[0] - answers[1]


def test_pairs_of_several_lengths_are_grouped(llama: ms.Model) -> None:
    pairs = [*told_apart(llama, 4, 4), *told_apart(llama, 4, 5)]
    circuit = llama.circuit(pairs, size=5)
    assert len(circuit.train) == len(circuit.test) == 4
    with pytest.raises(ms.PromptError, match="pair 3: its prompts have 5 tokens, and those of pair 1 have 4"):
        llama.circuit(pairs, size=5, positions=True)
    assert llama.circuit(pairs, size=5, positions=True, limit=2).n_positions == 4


def test_the_first_pairs_are_those_given_first(llama: ms.Model) -> None:
    # Held out is every second pair; the longer ones come first and in the middle.
    short, long = told_apart(llama, 4, 4), told_apart(llama, 4, 6)
    pairs = [*long[:2], *short[:2], *long[2:], *short[2:]]
    prepared = prepared_task(llama, pairs=pairs)
    assert prepared is not None
    train = prepared.train
    assert [pair.pair for pair in train.runner.pairs] == pairs[::2]
    assert [len(batch.clean[0]) for batch in train.runner.batches] == [4, 6]
    kept = first(torch.arange(prepared.space.n_nodes), 50)
    whole = train.runner.differences(kept)
    for n in range(1, 4):
        some = train.first(n)
        assert [pair.pair for pair in some.runner.pairs] == pairs[::2][:n]
        assert some.runner.differences(kept).numpy() == pytest.approx(whole[:n].numpy(), abs=1e-5)
        every = torch.ones_like(kept)
        assert some.runner.differences(every).numpy() == pytest.approx(some.model, abs=1e-5)
    nodes = torch.arange(0, 40, 7)
    for scored in (METHODS["relp"], METHODS["exact"]):
        by_pair = scores_by_pair(scored, train.runner, nodes)
        alone = scores_by_pair(scored, train.first(1).runner, nodes)
        assert torch.allclose(by_pair[:1], alone, atol=1e-5)
        assert torch.allclose(by_pair.mean(0).float(), score_nodes(scored, train.runner)[nodes], atol=1e-6)
    circuit = llama.circuit(pairs, size=5)
    assert [*circuit.train, *circuit.test] == [*pairs[::2], *pairs[1::2]]


def test_links_are_those_of_the_pairs_given_first(llama: ms.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = told_apart(llama, 4, 4), told_apart(llama, 4, 6)
    monkeypatch.setattr(edges, "N_PAIRS", 2)
    mixed = prepared_task(llama, pairs=[pair for each in (*long, *short) for pair in (each, each)])
    alone = prepared_task(llama, pairs=[pair for each in long for pair in (each, each)])
    assert mixed is not None
    assert alone is not None
    nodes = torch.arange(0, mixed.space.n_nodes, 3)
    of_mixed, of_long = (edges.links(task.train.runner, nodes) for task in (mixed, alone))
    pd.testing.assert_frame_equal(of_mixed, of_long, rtol=1e-4, atol=1e-6)


def test_controls_have_as_many_nodes_and_the_matched_ones_the_same_places(llama: ms.Model) -> None:
    prepared = prepared_task(llama, positions=True)
    assert prepared is not None
    space = prepared.space
    kept = first(torch.randperm(space.n_nodes, generator=torch.Generator().manual_seed(7)), 40)
    controls = list(random_controls(space, kept, 0))
    assert [int(mask.sum()) for mask in controls] == [40, 40]
    places = [
        mask.view(space.structure.n_layers, -1, space.groups[0].n_units).sum(-1) for mask in (kept, *controls)
    ]
    assert places[0].equal(places[2])
    assert not places[0].equal(places[1])


def test_pairs_that_are_trained_on_and_tested_are_noted(llama: ms.Model) -> None:
    pairs = told_apart(llama)
    assert llama.circuit(pairs[:4], test=pairs[4:], size=3).notes == ()
    (note,) = llama.circuit(pairs[:4], test=pairs[2:], size=3).notes
    assert note.startswith("2 of 6 test pairs are training pairs too")
    (split,) = llama.circuit([pair for pair in pairs for _ in range(2)], size=3).notes
    assert split.startswith("8 of 8 test pairs")


def test_areas_and_sizes_of_a_curve() -> None:
    sizes = curve_sizes(1000)
    assert sizes == [1, 2, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000]
    table = pd.DataFrame({"size": sizes, "faithfulness": 1.0})
    assert areas(table, 1000) == pytest.approx({"cpr": 1, "cmd": 0, "cpr_linear": 1, "cmd_linear": 0})
    table.loc[table["size"] < 100, "faithfulness"] = 1.3
    assert ms.Circuit.smallest(SimpleNamespace(curve=table), 0.1) == 100  # type: ignore[arg-type]
    # 1.3 up to 5 %, falling to 1 at 10 %: a third of the three decades is at 1.
    found = areas(table, 1000)
    assert found["cpr"] == pytest.approx(1 + found["cmd"])
    assert found["cmd"] == pytest.approx(0.3 * (np.log(50) + np.log(2) / 2) / np.log(1000))


def test_links_are_among_the_best_nodes(llama: ms.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = llama.circuit(told_apart(llama), size=40).edges
    assert whole[["source", "target"]].to_numpy().max() > 9
    monkeypatch.setattr(edges, "MOST_NODES", 10)
    found = llama.circuit(told_apart(llama), size=40).edges
    expected = whole[(whole[["source", "target"]] < 10).all(axis=1)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "noted"),
    [
        ("mixtral", {}, True),
        ("mixtral", {"method": "greedy"}, True),
        ("mixtral", {"method": "cna"}, False),
        ("mixtral", {"kinds": ("head",)}, False),
        ("llama", {}, False),
    ],
)
def test_a_note_on_experts_that_do_not_run(name: str, options: dict, noted: bool, tmp_path: Path) -> None:
    model = open_tiny(built(name))
    circuit = model.circuit(told_apart(model), size=3, **options)
    assert circuit.notes == ((UNROUTED,) if noted else ())
    assert ms.Circuit.load(circuit.save(tmp_path / "circuit.json")).notes == circuit.notes
    assert (UNROUTED in circuit_summary(circuit)) == noted


def test_only_gradients_do_not_reach_experts_that_do_not_run() -> None:
    prepared = prepared_task(open_tiny(built("mixtral")), positions=True)
    assert prepared is not None
    runner, space = prepared.train.runner, prepared.space
    values = [site_values(runner.language_model, space, batch.clean) for batch in runner.batches]
    silent = torch.cat([space.gather(each) for each in values]).eq(0).all(0)
    assert 0 < int(silent.sum()) < space.n_nodes
    for name, scored in {"relp": False, "atp": False, "direct": True, "cna": True}.items():
        assert bool(score_nodes(METHODS[name], runner)[silent].any()) == scored, name


def test_amplified_nodes_are_scaled(llama: ms.Model) -> None:
    circuit = llama.circuit(told_apart(llama), size=6)
    prompt = circuit.test[0].clean
    with llama.ablate(circuit, factor=2):
        found = llama.predict(prompt)
    with llama.ablate(circuit.nodes, factor=2):
        expected = llama.predict(prompt)
    assert found.table.equals(expected.table)
    assert not found.table.equals(llama.predict(prompt).table)
    with llama.ablate(circuit, complement=True):
        assert llama.generate(prompt, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "there is no method 'magic' for nodes; give one of relp, .*, greedy$"),
        ({"kinds": ()}, "there are no kinds"),
        ({"kinds": ("ffn", "layer")}, "'layer' is not a kind of nodes"),
        ({"kinds": ("attention", "head")}, "give one of the kinds"),
        ({"ablation": "noise"}, "ablation is 'noise'"),
        ({"size": 0}, "give 1 node or more"),
        ({"size": 10**9}, "give fewer"),
        ({"size": 1, "faithfulness": 0.5}, "give one of them"),
        ({"faithfulness": 1.5}, "faithfulness is 1.5"),
        ({"method": "greedy", "faithfulness": 0.5}, "leave out faithfulness"),
        ({"controls": 0}, "controls is 0"),
        ({"limit": 1}, "give 2 pairs or more"),
    ],
)
def test_refused_options(llama: ms.Model, options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        llama.circuit(told_apart(llama), **options)


def test_refused_uses(llama: ms.Model) -> None:
    pairs = told_apart(llama)
    patched = llama.circuit(pairs, size=3, ablation="patch")
    with pytest.raises(OptionError, match="give a factor"), llama.ablate(patched):
        pass
    at_positions = llama.circuit(pairs, size=3, positions=True)
    with llama.ablate(at_positions), pytest.raises(OptionError, match="give one of 4 tokens or more"):
        llama.predict("w5 w6")
    with pytest.raises(OptionError, match="leave out positions"), llama.ablate(at_positions, positions=[0]):
        pass
    with (
        pytest.raises(OptionError, match="complement is for circuits"),
        llama.ablate([ms.FFNNeuron(0, 1)], complement=True),
    ):
        pass
    other = open_tiny(built("gpt2"))
    with pytest.raises(OptionError, match="open the circuit's model"), other.ablate(at_positions):
        pass
    with llama.ablate([ms.FFNNeuron(0, 1)]), pytest.raises(OptionError, match="outside the ablation"):
        llama.circuit(pairs)


def test_nodes_for_exact_patching_are_chosen_in_no_time() -> None:
    scores = [torch.randn(200_000, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    start = process_time()
    nodes = chosen_nodes(scores, 20_000)
    assert process_time() - start < 5
    assert len(nodes.unique()) == 20_000
    for each in scores:
        assert torch.isin(each.abs().topk(3000).indices, nodes).all()
