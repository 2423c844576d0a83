"""Neurons read through heads, and heads read at positions, against what the modules themselves do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import mnemoscope as ms
from mnemoscope.attribution.vocabulary import HeadVectors, head_vectors, through_head
from mnemoscope.model.activations import ActivationCache
from mnemoscope.model.attention import AttentionCall, QueryKeyCall, WeightsCall
from mnemoscope.model.families.registry import Family
from mnemoscope.model.gradients import key_gradients, watched_block
from mnemoscope.model.hooks import observed_attention
from mnemoscope.model.readout import capped
from mnemoscope.model.tokens import token_text
from mnemoscope.results.columns import HEAD_TOKEN_COLUMNS
from support import (
    EVERY_REPRESENTATIVE,
    REPRESENTATIVES,
    built,
    cache_of,
    chosen_on_push,
    family_id,
    open_tiny,
    words,
)

IDS = (5, 17, 80, 33, 5, 61, 9)
PROMPT = words(*IDS)
LAYER, HEAD = 2, 2


@contextmanager
def stream_replaced(model: ms.Model, layer: int, states: Tensor) -> Iterator[None]:
    """A layer starts from `states`, `[n_tokens, d_model]`, instead of its own stream."""

    def replaced(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (states.to(args[0].dtype)[None], *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": states.to(kwargs["hidden_states"].dtype)[None]}

    block = model.language_model.structure.blocks[layer].module
    handle = block.register_forward_pre_hook(replaced, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def run(model: ms.Model, ids: tuple[int, ...]) -> None:
    language_model = model.language_model
    with torch.no_grad():
        language_model.model.base_model(input_ids=torch.tensor([ids]), use_cache=False)


def head_output(model: ms.Model, layer: int, head: int, state: Tensor) -> Tensor:
    """What a head writes at a lone position whose stream is `state`, before any post-norm, `[d_model]`."""
    structure = model.language_model.structure
    projection = structure.blocks[layer].attention_output
    seen: list[Tensor] = []
    handle = projection.module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with stream_replaced(model, layer, state[None]):
        run(model, (5,))
    handle.remove()
    kept = torch.zeros_like(seen[0])
    dims = slice(head * structure.d_head, (head + 1) * structure.d_head)
    kept[..., dims] = seen[0][..., dims]
    with torch.no_grad():
        return projection.module(kept)[0, 0]


def written_by_modules(model: ms.Model, layer: int, head: int, column: Tensor) -> Tensor:
    """The direction that a head makes of a column, run through the model's own modules, of length 1.

    A zero state leaves the biases alone, which are taken away; a post-norm then only scales and
    weighs what is left.
    """
    projection = model.language_model.structure.blocks[layer].attention_output
    made = head_output(model, layer, head, column) - head_output(model, layer, head, 0 * column)
    if projection.norm is not None:
        with torch.no_grad():
            made = projection.written(made[None])[0]
        assert projection.norm.bias is None
    return made / made.norm()


def best(model: ms.Model, values: Tensor, sign: int = 1) -> list[str]:
    """The three tokens with the highest values, or the lowest."""
    tokenizer = model.language_model.tokenizer
    return [token_text(tokenizer, i) for i in (sign * values).argsort(descending=True)[:3].tolist()]


def test_a_neuron_is_read_through_a_head_as_the_modules_would(tiny: ms.Model) -> None:
    structure = tiny.language_model.structure
    norm = structure.readout.norm
    for layer, head, neuron in ((LAYER, HEAD, 7), (1, 1, 30)):
        column = structure.blocks[0].ffn_output.columns(torch.tensor([neuron]))
        expected = written_by_modules(tiny, layer, head, column[0])
        found = through_head(structure, column, ms.Head(layer, head))[0]
        assert torch.allclose(found / found.norm(), expected, atol=2e-5)
        opposite = written_by_modules(tiny, layer, head, -column[0])
        assert torch.allclose(opposite, -expected, atol=2e-5)

        reading = tiny.neuron_tokens(0, neuron, top=3, through=(layer, head))
        values = structure.readout.unembedding @ (norm.centre(expected) * norm.weight)
        assert [token for token, _ in reading.promotes] == best(tiny, values)
        assert [token for token, _ in reading.demotes] == best(tiny, values, -1)
        assert reading.norm == pytest.approx(float(found.norm()))
        assert reading.through == ms.Head(layer, head)
        assert reading.to_json()["through"] == {"layer": layer, "head": head}


def test_a_neuron_itself_is_read_through_no_head(llama: ms.Model) -> None:
    reading = llama.neuron_tokens(0, 7)
    assert reading.to_json()["through"] is None
    assert reading != llama.neuron_tokens(0, 7, through=(1, 0))
    assert llama.neuron_tokens(0, 7, through=ms.Head(1, 0)) == llama.neuron_tokens(0, 7, through=(1, 0))


def vectors_of(model: ms.Model, layer: int, head: int) -> tuple[ActivationCache, HeadVectors]:
    language_model = model.language_model
    with watched_block(language_model.structure.blocks[layer].module) as call:
        (activations,) = language_model.capture([IDS])
    return activations, head_vectors(language_model, activations, call, layer, head)


def test_what_a_head_brings_sums_to_what_it_adds(tiny: ms.Model) -> None:
    structure = tiny.language_model.structure
    for layer, head in ((LAYER, HEAD), (0, 1)):
        activations, vectors = vectors_of(tiny, layer, head)
        heads = cache_of(structure, activations).heads
        added = (heads.columns(layer, None) * heads.coefficients(layer))[head]
        assert torch.allclose(vectors.value.sum(0), added, atol=1e-5 * float(added.abs().max()))
        table = tiny.head_tokens(PROMPT, layer, head).table
        assert table["value_norm"].tolist() == pytest.approx(vectors.value.norm(dim=-1).tolist(), rel=1e-4)
        assert table["attention"].sum() == pytest.approx(1, abs=1e-5)


def scores(model: ms.Model, layer: int, states: Tensor) -> AttentionCall:
    """The attention call of a layer that starts from `states`."""
    calls: list[AttentionCall] = []
    with observed_attention(model.language_model.model, calls.append), stream_replaced(model, layer, states):
        run(model, IDS)
    return calls[layer]


@pytest.mark.parametrize("family", REPRESENTATIVES, ids=family_id)
def test_keys_are_the_slopes_of_attention_scores(family: Family) -> None:
    """By finite differences of one position's stream at a time, in double precision.

    RMSNorms of transformers go through float32 all the same, so the steps cannot be as small.
    """
    if family.model_type == "xglm":
        pytest.skip("transformers' XGLM does not run in double precision")
    step, tolerance = 3e-3, 3e-4
    model = open_tiny(family.build().double())
    language_model, structure = model.language_model, model.language_model.structure
    with watched_block(structure.blocks[LAYER].module) as watched:
        language_model.capture([IDS])
    states = watched.states[0].double()
    found = key_gradients(language_model, LAYER, HEAD, watched).double()
    plain = scores(model, LAYER, states)
    last = torch.tensor([len(IDS) - 1])
    seen = plain.pattern(last)[0, HEAD] > 0

    def score(position: int, change: Tensor) -> float:
        changed = states.clone()
        changed[position] += change
        call = scores(model, LAYER, changed)
        if isinstance(call, QueryKeyCall) and isinstance(plain, QueryKeyCall):
            key = call.key[0, HEAD // (structure.n_heads // call.key.shape[1]), position]
            return float(capped(key @ plain.query[0, HEAD, -1] * plain.scaling, plain.soft_cap))
        # Weights alone are known, whose logs are scores but for what all have in common.
        row = call.pattern(last)[0, HEAD].double().log()
        return float(row[position] - row[position + 1])

    # Weights tell nothing of the last position's key, whose stream makes the query too.
    for position in range(len(IDS) - isinstance(plain, WeightsCall)):
        direction = torch.randn(structure.d_model, dtype=torch.float64)
        slope = (score(position, step * direction) - score(position, -step * direction)) / (2 * step)
        if seen[position]:
            assert float(found[position] @ direction) == pytest.approx(
                slope, abs=tolerance * float(found[position].norm())
            )
        else:
            assert not found[position].any()


def test_a_position_that_the_head_cannot_see_says_nothing() -> None:
    model = open_tiny(built("mistral"))  # each token sees the last four
    table = model.head_tokens(PROMPT, LAYER, HEAD).table
    hidden, seen = table[table["attention"] == 0], table[table["attention"] > 0]
    assert hidden["position"].tolist() == [0, 1, 2]
    for name in ("key", "value", "demotes"):
        assert hidden[name].tolist() == [[], [], []]
        assert {len(tokens) for tokens in seen[name]} == {5}
    assert {len(tokens) for tokens in table["input"]} == {5}


def test_the_lists_are_the_ends_of_the_vocabulary(tiny: ms.Model) -> None:
    language_model = tiny.language_model
    readout = language_model.structure.readout
    activations, vectors = vectors_of(tiny, LAYER, HEAD)
    frozen = readout.freeze(activations.final_state)
    table = tiny.head_tokens(PROMPT, LAYER, HEAD, top=3).table
    assert tuple(table.columns) == HEAD_TOKEN_COLUMNS
    assert table["token"].str.strip().tolist() == [f"w{i}" for i in IDS]
    for row in table.itertuples():
        (prefix,) = language_model.capture([IDS[: row.position + 1]])
        values = {
            "input": frozen.log_probabilities(prefix.resid_pre[LAYER][None])[0],
            "key": frozen.project(frozen.fold(vectors.key[row.position][None]))[0],
            "value": frozen.project(frozen.fold(vectors.value[row.position][None]))[0],
        }
        for name, expected in values.items():
            if getattr(row, name):
                assert getattr(row, name) == best(tiny, expected)
        if row.demotes:
            assert row.demotes == best(tiny, values["value"], -1)


def test_reading_a_head_leaves_the_model_as_it_was(tiny: ms.Model) -> None:
    model = tiny.language_model.model
    before = [(weight.requires_grad, weight.grad) for weight in model.parameters()]
    with torch.no_grad():
        first = tiny.head_tokens(PROMPT, 1, 2)
    assert [(weight.requires_grad, weight.grad) for weight in model.parameters()] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    pd.testing.assert_frame_equal(first.table, tiny.head_tokens(PROMPT, 1, 2).table)


@pytest.mark.parametrize(
    "family", chosen_on_push(EVERY_REPRESENTATIVE, "gpt2", "llama-grouped_heads", "gemma2", "granite")
)
def test_half_precision_is_read_in_float32(family: Family) -> None:
    model = open_tiny(family.build().to(torch.bfloat16))
    table = model.head_tokens(PROMPT, 1, 0).table
    assert table["value_norm"].dtype == table["attention"].dtype == "float32"
    assert model.neuron_tokens(0, 3, through=(1, 0)).through == ms.Head(1, 0)


def test_a_head_is_read_without_what_is_taken_away(llama: ms.Model) -> None:
    plain = llama.head_tokens(PROMPT, 1, 0)
    with llama.ablate([ms.FFNNeuron(0, n) for n in range(llama.d_ff)]):
        without = llama.head_tokens(PROMPT, 1, 0)
    assert not plain.table["attention"].equals(without.table["attention"])
    with llama.ablate([ms.Head(0, 0)]), pytest.raises(ms.OptionError, match="would not add up"):
        llama.head_tokens(PROMPT, 1, 0)


def test_the_json_object_has_the_agreed_keys(llama: ms.Model) -> None:
    found = llama.head_tokens(PROMPT, 1, 0, top=2).to_json()
    assert list(found) == ["layer", "head", "prompt", "tokens", "token_ids", "positions"]
    assert [tuple(row) for row in found["positions"]] == [HEAD_TOKEN_COLUMNS] * len(IDS)
    assert found["token_ids"] == list(IDS)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.neuron_tokens(1, 0, through=(1, 0)), ms.OptionError, "give one of layer 2 or above"),
        (lambda m: m.neuron_tokens(1, 0, through=(0, 3)), ms.OptionError, "head 0.3 reads the stream before"),
        (
            lambda m: m.neuron_tokens(2, 0, through=(2, 0)),
            ms.OptionError,
            "no head comes after the last layer",
        ),
        (lambda m: m.neuron_tokens(1, 0, through=(3, 0)), ms.OptionError, "layer goes from 0 to 2"),
        (lambda m: m.neuron_tokens(1, 0, through=(2, 4)), ms.OptionError, "head goes from 0 to 3"),
        (lambda m: m.head_tokens(PROMPT, 3, 0), ms.OptionError, "layer goes from 0 to 2"),
        (lambda m: m.head_tokens(PROMPT, 0, -1), ms.OptionError, "head goes from 0 to 3"),
        (lambda m: m.head_tokens(PROMPT, 0, 0, top=0), ms.OptionError, "top is 0"),
        (lambda m: m.head_tokens("", 0, 0), ms.PromptError, "prompt is empty"),
    ],
)
def test_a_callers_mistake_gets_one_line_with_a_remedy(
    llama: ms.Model, call: Callable[[ms.Model], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        call(llama)
    assert "\n" not in str(caught.value)


def test_heads_whose_values_are_not_known_are_refused() -> None:
    model = open_tiny(built("llama"))
    structure = model.language_model.structure
    blocks = (*structure.blocks[:-1], replace(structure.blocks[-1], input_projections=None))
    model.language_model = replace(model.language_model, structure=replace(structure, blocks=blocks))
    assert model.neuron_tokens(0, 0).through is None
    with pytest.raises(ms.UnsupportedModelError, match="layer 2"):
        model.neuron_tokens(0, 0, through=(2, 0))


@pytest.mark.demo
def test_the_head_that_looks_at_japan_brings_tokyo(demo: ms.Model) -> None:
    table = demo.head_tokens("The capital of Japan is the city of", 23, 4).table
    japan = table.loc[3]
    assert japan["token"] == " Japan"
    assert japan["attention"] > 0.8
    assert {" Japanese", " Tokyo"} <= set(japan["value"])
    assert table["value_norm"].idxmax() == 3


@pytest.mark.demo
def test_a_neuron_that_says_nothing_by_itself_says_japan_through_that_head(demo: ms.Model) -> None:
    itself, through = demo.neuron_tokens(14, 813, top=5), demo.neuron_tokens(14, 813, top=5, through=(23, 4))
    japan = {" Japanese", " Japan", " Tokyo"}
    assert not japan & {token for token, _ in (*itself.promotes, *itself.demotes)}
    assert japan <= {token for token, _ in through.promotes}
