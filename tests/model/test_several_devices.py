"""Weights on several accelerators give what weights in memory give; the accelerators are pretended."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate import dispatch_model
from torch import nn
from transformers import PreTrainedModel

import mnemoscope as ms
from circuit_tasks import told_apart
from mnemoscope.attribution.methods.registry import methods
from mnemoscope.model.discovery.layout import find_blocks
from mnemoscope.model.experts import matrix_of
from mnemoscope.model.families.registry import FAMILIES, Family
from pretended_devices import DEVICES, pretended
from support import built, check_alike, chosen_on_push, open_tiny, words

PROMPT = words(5, 17, 80, 33, 5, 61, 9)
OTHER = words(7, 60, 2)
TARGET = 40
# GPT-2, whose head is tied, is opened once for all other tests. These have untied heads, biases, norms in
# every place, soft-caps, attention of their own, an activation with weights, experts with and without biases
# and shared ones.
_CHOSEN = (
    "llama",
    "bitnet",
    "gemma2",
    "gpt_neox",
    "falcon",
    "bloom",
    "apertus",
    "gpt_oss",
    "qwen2_moe",
)
CHOSEN = tuple(next(family for family in FAMILIES if family.model_type == name) for name in _CHOSEN)


@pytest.fixture(autouse=True)
def _devices() -> Iterator[None]:
    with pretended():
        yield


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """The first layer and the embeddings on one device, all the rest on another; a tied head is with them."""
    blocks, layers = find_blocks(model)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    places: dict[str, Any] = {f"{blocks}.{i}": DEVICES[min(i, 1)] for i in range(len(layers))}
    for name, module in model.named_modules():
        has_own = any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
        if has_own and not name.startswith(f"{blocks}."):
            first = "emb" in name or module is embeddings
            places[name] = DEVICES[not (first or (module is head and model.config.tie_word_embeddings))]
    # What transformers runs experts with by default takes other types of numbers on other kinds of devices.
    model.config._experts_implementation = "eager"
    return dispatch_model(model, places)


@pytest.fixture(scope="module")
def memory() -> ms.Model:
    return open_tiny(built("gpt2"))


@pytest.fixture(scope="module")
def spread_out() -> ms.Model:
    """Its head is tied, so that everything comes together elsewhere than the last layers are."""
    with pretended():
        return open_tiny(spread(built("gpt2")))


ON_PUSH = ("gemma2", "gpt_oss")


@pytest.mark.parametrize("family", chosen_on_push(CHOSEN, *ON_PUSH))
def test_a_spread_model_is_attributed_alike(family: Family) -> None:
    built = family.build()
    check_spread(open_tiny(spread(copy.deepcopy(built))), open_tiny(built))


def test_a_spread_model_with_a_tied_head_is_attributed_alike(memory: ms.Model, spread_out: ms.Model) -> None:
    check_spread(spread_out, memory)


def check_spread(spread_out: ms.Model, memory: ms.Model) -> None:
    weights = spread_out.language_model.model.parameters()
    assert {weight.device for weight in weights} == set(DEVICES)
    assert spread_out.validation.worst.error < 1e-5
    found, expected = (model.attribute(PROMPT, TARGET, top=12) for model in (spread_out, memory))
    check_alike(found, expected)


def test_tensors_on_two_devices_may_not_meet() -> None:
    """What the other tests here rest upon."""
    first, second = (torch.ones(2, device=device) for device in DEVICES)
    for meet in (
        lambda: first + second,
        lambda: torch.cat([first, second]),
        lambda: first[second.long()],
        lambda: first + torch.ones(2),
        lambda: first.index_copy_(0, torch.tensor([0]), first[:1]),
    ):
        with pytest.raises(RuntimeError, match="meets tensors on"):
            meet()
    assert (first + second.to(first) + torch.tensor(1.0)).tolist() == [3, 3]
    assert first[torch.tensor([1])].device == DEVICES[0]


def ablated(model: ms.Model, **how: Any) -> pd.DataFrame:
    with model.ablate([ms.FFNNeuron(0, 3), ms.Head(2, 1), ms.Layer(1, "ffn")], **how):
        return model.predict(PROMPT, top=97).table


def circuit(model: ms.Model, **options: Any) -> list[pd.DataFrame]:
    """A circuit's tables, and what the model predicts with it alone."""
    pairs = told_apart(model)
    found = model.circuit(pairs, positions=True, **options)
    with model.ablate(found, complement=True):
        return [*found.tables().values(), model.predict(pairs[0].clean, top=97).table]


USES: dict[str, Callable[[ms.Model], Any]] = {
    "predict": lambda model: model.predict(PROMPT, top=97).table,
    "bounds": lambda model: model.attribute(PROMPT, TARGET, top=5, neurons="bounds").tables()["ffn_scores"],
    "contrast": lambda model: model.attribute(PROMPT, TARGET, against=41, top=5).ffn_neurons,
    "several prompts": lambda model: model.attribute_many([PROMPT, OTHER], [TARGET, 41])[1].ffn_neurons,
    "continuation": lambda model: model.attribute_continuation(PROMPT, " " + words(9, 44), top=5).ffn_neurons,
    "links": lambda model: model.query_graph(model.attribute(PROMPT, TARGET, top=5)).edges,
    "neuron": lambda model: model.neuron_tokens(0, 7, through=(2, 1)).to_json(),
    "head": lambda model: model.head_tokens(PROMPT, 2, 1).table,
    "single ablations": lambda model: model.single_ablations(
        PROMPT, TARGET, [ms.FFNNeuron(0, 3), ms.Head(2, 1), ms.Layer(1, "ffn")]
    ),
    "ablation": lambda model: ablated(model, factor=0.5),
    "mean ablation": lambda model: ablated(model, mean_of=[OTHER]),
    "resampling": lambda model: ablated(model, resample_from=[OTHER], seed=3),
    "comparison": lambda model: model.compare_ablation(PROMPT, TARGET, [ms.Head(2, 1)], seeds=1).to_json(),
    "verified at once": lambda model: (
        model.rank_neurons(PROMPT, TARGET, method=ms.Verified(greedily=False), top=5).neurons
    ),
    "circuit": lambda model: circuit(model, size=9, kinds=("ffn", "head")),
    "searched circuit": lambda model: circuit(model, method="greedy", size=6),
    "contrast of activations": lambda model: model.contrast([PROMPT], [OTHER], top=9),
    "query proof": lambda model: (
        model.compare_query_ablation(
            model.attribute(PROMPT, TARGET, top=10), top=4, values=5, seeds=1
        ).coefficients
    ),
}


def same(found: Any, expected: Any) -> None:
    """Equal but for rounding, tables and JSON alike."""
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=2e-5)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        for ours, theirs in zip(found, expected, strict=True):
            same(ours, theirs)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


# Each of these calls on a few that are used on each push.
USED_NIGHTLY = (
    "several prompts",
    "mean ablation",
    "comparison",
    "verified at once",
    "contrast of activations",
)


@pytest.mark.parametrize(
    "use",
    [pytest.param(use, marks=pytest.mark.nightly if use in USED_NIGHTLY else []) for use in USES],
)
def test_whatever_is_done_gives_the_same(memory: ms.Model, spread_out: ms.Model, use: str) -> None:
    same(USES[use](spread_out), USES[use](memory))


RANKED_ON_PUSH = (
    "log-probability-increase",
    "coefficient-over-rank",
    "activation-gradient",
    "relp",
    "integrated-gradients",
    "verified",
    "single-ablation",
)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        # The others compute with the same scores, columns and gradients.
        *(
            pytest.param(name, "ffn", marks=[] if name in RANKED_ON_PUSH else pytest.mark.nightly)
            for name in methods()
        ),
        *(
            pytest.param(name, "attention", marks=pytest.mark.nightly)
            for name in ("integrated-gradients", "verified")
        ),
    ],
)
def test_every_method_ranks_the_same(memory: ms.Model, spread_out: ms.Model, method: str, kind: Any) -> None:
    found, expected = (
        model.rank_neurons(PROMPT, TARGET, method=method, kind=kind, top=5).neurons
        for model in (spread_out, memory)
    )
    same(found, expected)


def test_an_edit_of_a_dispatched_model_is_a_copy_of_its_own() -> None:
    """Its modules are those that accelerate made run in another way."""
    parts = [ms.FFNNeuron(0, 3), ms.Head(2, 1), ms.Layer(1, "ffn")]
    places: Any = {"transformer": "cpu", "lm_head": "cpu"}
    model = open_tiny(dispatch_model(built("gpt2"), places, force_hooks=True))
    before = model.predict(PROMPT, top=97).table
    edited = model.edit(parts, factor=0.5)
    same(edited.predict(PROMPT, top=97).table, ablated(model, factor=0.5))
    assert model.predict(PROMPT, top=97).table.equals(before)
    assert not edited.predict(PROMPT, top=97).table.equals(before)


@pytest.mark.parametrize(
    "name", ["gpt2", pytest.param("llama", marks=pytest.mark.nightly), "gpt_oss", "qwen2_moe"]
)
def test_columns_are_scaled_where_they_are(name: str) -> None:
    model = open_tiny(spread(built(name)))
    index = torch.tensor([1, 45], device=DEVICES[0])
    for projection in (model.language_model.structure.blocks[layer].ffn_output for layer in (0, 2)):
        matrix, before = matrix_of(projection.module), projection.columns().clone()
        matrix.scale_inputs(index, 0.5)
        after = projection.columns()
        assert after.device == before.device == model.language_model.structure.device
        changed = (after != before).any(1).nonzero()[:, 0]
        assert changed.tolist() == index.tolist()
        assert torch.equal(after[index.to(after.device)], 0.5 * before[index.to(after.device)])


def test_nothing_to_move_states_is_told() -> None:
    model = built("llama")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.data.to(DEVICES[0]))
    with pytest.raises(ms.UnsupportedModelError, match="nothing moves states from one to the other"):
        open_tiny(model)
