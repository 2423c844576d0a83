"""Query scores: shares, single components taken out of the stream, whole tables."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import mnemoscope as ms
from mnemoscope.attribution.query.scores import QueryScores, Subkeys, ValueNeurons, state_read, subkeys
from mnemoscope.attribution.query.tables import attention_values, ffn_values
from mnemoscope.model.components import ResidualDecomposition, capture_components
from mnemoscope.model.input_projections import InputProjection
from mnemoscope.model.weights import Linear, get_weight
from support import EVERY_REPRESENTATIVE, chosen_on_push, words

PROMPT = words(3, 17, 44, 8, 60, 21)


@pytest.fixture(scope="module")
def result(tiny: ms.Model) -> ms.Attribution:
    return tiny.attribute(PROMPT, top=40, effects=False, suppressing=False, query=False)


def components_of(model: ms.Model, result: ms.Attribution) -> ResidualDecomposition:
    language_model = model.language_model
    positions = range(len(result.tokens))
    return capture_components(language_model.model, language_model.structure, result.token_ids, positions)


def groups_of(model: ms.Model, result: ms.Attribution) -> list[ValueNeurons]:
    return [
        attention_values(result.attention_neurons, model.language_model),
        ffn_values(result.ffn_neurons, model.language_model, len(result.tokens) - 1),
    ]


def scores_of(
    model: ms.Model, result: ms.Attribution
) -> tuple[QueryScores, list[Subkeys], list[ValueNeurons]]:
    structure, components = model.language_model.structure, components_of(model, result)
    groups = groups_of(model, result)
    keys = [subkeys(structure, components, group, None) for group in groups]
    return QueryScores(structure, components, keys), keys, groups


def test_shares_of_every_value_neuron_sum_to_one(tiny: ms.Model, result: ms.Attribution) -> None:
    """Embeddings, heads, FFN neurons and biases, each met with each subkey one by one."""
    structure = tiny.language_model.structure
    scores, keys, _ = scores_of(tiny, result)
    components = scores.components
    for group, products in zip(keys, scores.products, strict=True):
        skipped = products.skipped
        assert int((~skipped).sum()) > 20
        for row in torch.nonzero(~skipped[group.neuron])[:, 0].tolist():
            key, position, layer = group.keys[row].double(), group.position[row], int(group.layer[row])
            parts = [key @ components.embeddings[position].double()]
            for i, block in enumerate(structure.blocks[: layer + 1]):
                if i < layer or group.after_attention:
                    parts.append(key @ components.attention_constant[i, position].double())
                    columns = block.attention_output.columns().double()
                    parts.append(columns @ key * components.attention_coefficients[i, position])
                if i < layer:
                    parts.append(key @ components.ffn_constant[i, position].double())
                    columns = block.ffn_output.columns().double()
                    parts.append(columns @ key * components.ffn_coefficients[i, position])
            shares = torch.cat([part.flatten() for part in parts]) / products.total[row]
            assert float(shares.sum()) == pytest.approx(1, abs=1e-4)


def test_scores_sum_to_those_of_the_value_neurons_kept(tiny: ms.Model, result: ms.Attribution) -> None:
    scores, _, groups = scores_of(tiny, result)
    for i, (neurons, products) in enumerate(zip(groups, scores.products, strict=True)):
        skipped = products.skipped
        total = float(scores.embeddings[i, 0] + scores.layers[i, 0].sum())
        assert total == pytest.approx(float(neurons.score[~skipped].sum()), rel=1e-4, abs=1e-4)


def test_heads_neurons_and_biases_make_up_the_layers(tiny: ms.Model, result: ms.Attribution) -> None:
    scores, _, _ = scores_of(tiny, result)
    largest = scores.layers.abs().max()
    attention = scores.heads.sum(-1) + scores.biases[..., 0]
    ffn = scores.ffn_neurons.sum(-1) + scores.biases[..., 1]
    assert (attention - scores.layers[..., 0]).abs().max() < 1e-5 * largest
    assert (ffn - scores.layers[..., 1]).abs().max() < 1e-5 * largest


def test_tables_hold_the_shares_times_scores_one_by_one(tiny: ms.Model, result: ms.Attribution) -> None:
    """The pooled subkeys give what every value neuron met with a query neuron gives."""
    found = tiny.query(result, values=40, top=10)
    scores, keys, _ = scores_of(tiny, result)
    structure, components = tiny.language_model.structure, scores.components
    for tables, group, products in zip(
        (found.of_attention, found.of_ffn), keys, scores.products, strict=True
    ):
        skipped = products.skipped
        for row in tables.ffn_neurons.itertuples():
            column = structure.blocks[row.layer].ffn_output.columns(torch.tensor([row.neuron]))[0]
            coefficient = components.ffn_coefficients[row.layer, group.position, row.neuron]
            inner = (group.keys @ column * coefficient).double() * (group.layer > row.layer)
            share = torch.where(skipped[group.neuron], 0.0, inner / products.total)
            assert row.score == pytest.approx(float((share * group.weight).sum()), rel=1e-3, abs=1e-5)
            mean = (inner * products.total.sign() / group.n_paths[group.neuron]).sum() / len(skipped)
            assert row.inner_product == pytest.approx(float(mean), rel=1e-3, abs=1e-5)
            assert row.coefficient == pytest.approx(
                float(components.ffn_coefficients[row.layer, row.position, row.neuron])
                / float(components.ffn_scales[row.layer, row.position])
            )


def outputs_of(projection: InputProjection, state: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    """What the projection's own module gives for a state whose norm is frozen at another one."""
    given = state
    if projection.norm is not None:
        norm = projection.norm
        given = norm.centre(state) * norm.scale(frozen) * norm.weight
        given = given if norm.bias is None else given + norm.bias
    with torch.no_grad():
        assert isinstance(projection.matrix, Linear)
        module = projection.matrix.module
        return module(given[None].to(get_weight(module).dtype))[0].float()[projection.outputs]


def test_a_component_taken_out_lowers_the_pre_activation_by_its_inner_product(
    tiny: ms.Model, result: ms.Attribution
) -> None:
    """Through the model's own modules, with the norm frozen at the whole state."""
    structure = tiny.language_model.structure
    scores, keys, groups = scores_of(tiny, result)
    components = scores.components
    for group, neurons, products in zip(keys, groups, scores.products, strict=True):
        for row in range(0, len(group.path), 7):
            layer, position, path = int(group.layer[row]), group.position[row], group.path[row]
            projections = structure.blocks[layer].input_projections
            assert projections is not None
            state = state_read(structure, components, neurons.kind, layer)[position]
            projection = projections.value if path == "value" else projections.ffn[path]
            index = int(neurons.index[group.neuron[row]])
            if path == "value":
                head = index // structure.d_head
                per_group = structure.n_heads // structure.n_kv_heads
                index = head // per_group * structure.d_head + index % structure.d_head
            whole = outputs_of(projection, state, state)[index]
            assert float(products.total[row] + group.constants[row]) == pytest.approx(
                float(whole), rel=1e-4, abs=1e-4
            )
            key = group.keys[row]
            for below, block in enumerate(structure.blocks[:layer]):
                neuron = torch.tensor([(5 * row + below) % structure.d_ff])
                head = torch.arange(structure.d_head) + row % structure.n_heads * structure.d_head
                ffn = components.ffn_coefficients[below, position, neuron]
                attention = components.attention_coefficients[below, position, head]
                vectors = {
                    float(products.layers[row, below, 0]): components.attention_out[below, position],
                    float(products.layers[row, below, 1]): components.ffn_out[below, position],
                    float(block.ffn_output.columns(neuron)[0] @ key * ffn): (
                        ffn @ block.ffn_output.columns(neuron)
                    ),
                    float(block.attention_output.columns(head) @ key @ attention): (
                        attention @ block.attention_output.columns(head)
                    ),
                }
                for inner_product, vector in vectors.items():
                    fall = whole - outputs_of(projection, state - vector, state)[index]
                    assert inner_product == pytest.approx(float(fall), rel=1e-3, abs=1e-4)


def test_readers_give_what_the_model_computes(tiny: ms.Model) -> None:
    """Values and coefficients of another prompt than the one the projections were found on."""
    structure = tiny.language_model.structure
    (activations,) = tiny.language_model.capture([tiny.attribute(PROMPT, top=1).token_ids])
    for layer, block in enumerate(structure.blocks):
        projections = block.input_projections
        assert projections is not None
        state = activations.resid_pre[layer]
        values = projections.value.scale(state) * (projections.value.keys() @ state)
        values = values + projections.value.constants(torch.arange(len(values)))
        assert values == pytest.approx(activations.values[layer, :, -1].flatten(), rel=1e-4, abs=1e-4)
        base = (activations.resid_pre if structure.parallel else activations.resid_mid)[layer]
        read = {
            path: projection.scale(base) * (projection.keys() @ base)
            + projection.constants(torch.arange(structure.d_ff))
            for path, projection in projections.ffn.items()
        }
        found = projections.activation(read["up"], read.get("gate"))
        found = found * block.ffn_output.input_factors(found)
        assert found == pytest.approx(activations.coefficients[layer], rel=1e-4, abs=1e-4)


def test_attribute_brings_the_query_neurons(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, top=40)
    assert result.query_neurons is not None
    for tables in (result.query_neurons.of_attention, result.query_neurons.of_ffn):
        assert len(tables.ffn_neurons) == 40
        assert 30 < len(tables.attention_neurons) <= 40  # none that nothing reads
        assert len(tables.layers) == 1 + 2 * llama.n_layers
        assert len(tables.heads) == llama.n_layers * llama.n_heads
        for table in (tables.layers, tables.heads, tables.ffn_neurons, tables.attention_neurons):
            assert table["score"].is_monotonic_decreasing
    again = result.query(top=40)
    for name, table in again.tables().items():
        pd.testing.assert_frame_equal(table, result.tables()[name])


def test_thirty_value_neurons_are_asked_about_whatever_the_length_of_the_lists(llama: ms.Model) -> None:
    short, long = (llama.attribute(PROMPT, top=top) for top in (5, 60))
    assert short.query_neurons is not None
    assert long.query_neurons is not None
    assert len(short.ffn_neurons) == len(short.suppressing_attention_neurons) == 5
    assert len(short.query_neurons.of_attention.value_neurons) == 30
    pd.testing.assert_frame_equal(short.query_neurons.of_ffn.layers, long.query_neurons.of_ffn.layers)
    assert short.query_neurons.of_ffn.ffn_neurons["neuron"].tolist() == (
        long.query_neurons.of_ffn.ffn_neurons["neuron"].head(5).tolist()
    )
    assert len(short.query(top=5).of_ffn.value_neurons["neuron"].drop_duplicates()) == 5


def test_json_has_the_lists_of_the_contract(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, top=5)
    document = result.to_json()
    assert result.query_neurons is not None
    assert [entry["neuron"] for entry in document["query_ffn_neurons"]] == (
        result.query_neurons.of_attention.ffn_neurons["neuron"].tolist()
    )
    assert {"layer", "kind", "score"} <= document["query_layers"][0].keys()
    scores = [entry["score"] for entry in document["query_layers"]]
    assert scores == sorted(scores, reverse=True)
    assert llama.attribute(PROMPT, top=5, query=False).to_json()["query_layers"] == []


def test_value_neurons_among_the_query_neurons_are_told(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, top=30)
    assert result.query_neurons is not None
    table = result.query_neurons.of_ffn.ffn_neurons
    value = set(zip(result.ffn_neurons["layer"], result.ffn_neurons["neuron"], strict=True))
    told = [pair in value for pair in zip(table["layer"], table["neuron"], strict=True)]
    assert table["value_neuron"].tolist() == told
    assert any(told)
    assert not all(told)


def test_a_neuron_whose_components_cancel_is_skipped_and_named(llama: ms.Model) -> None:
    """The stream is made orthogonal to what one value neuron reads."""
    result = llama.attribute(PROMPT, top=80, effects=False, suppressing=False, query=False)
    structure, components = llama.language_model.structure, components_of(llama, result)
    neurons = attention_values(result.attention_neurons, llama.language_model)
    key = subkeys(structure, components, neurons, None)
    row = int(torch.nonzero(key.layer > 0)[0, 0])
    products = QueryScores(structure, components, [key]).products[0]
    direction = key.keys[row] / key.keys[row].norm() ** 2
    components.embeddings[key.position[row]] -= direction * float(products.total[row])
    scores = QueryScores(structure, components, [key])
    assert bool(scores.products[0].skipped[key.neuron[row]])
    assert scores.ffn_neurons.isfinite().all()
    assert scores.ffn_neurons.abs().max() < 100
    kept = float(neurons.score[~scores.products[0].skipped].sum())
    total = float(scores.embeddings[0, 0] + scores.layers[0, 0].sum())
    assert total == pytest.approx(kept, rel=1e-4)


def test_a_copy_in_another_process_has_no_model(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, top=3)
    copy = pickle.loads(pickle.dumps(result))
    pd.testing.assert_frame_equal(copy.ffn_neurons, result.ffn_neurons)
    with pytest.raises(ms.OptionError, match="was read from a file"):
        copy.query()
    assert llama.query(copy, top=3).of_ffn.layers.equals(result.query(top=3).of_ffn.layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"values": 0}, "values is 0"), ({"top": 0}, "top is 0"), ({"key": "value"}, "key is 'value'")],
)
def test_wrong_options_are_told(llama: ms.Model, options: dict[str, object], message: str) -> None:
    result = llama.attribute(PROMPT, top=3, query=False)
    with pytest.raises(ms.OptionError, match=message):
        result.query(**options)


def test_the_result_of_another_model_is_refused(llama: ms.Model, tiny: ms.Model) -> None:
    if tiny.architecture == llama.architecture:
        pytest.skip("both have the same name")
    with pytest.raises(ms.OptionError, match="the result is of"):
        tiny.query(llama.attribute(PROMPT, top=3, query=False))


def test_links_lead_back_from_value_neurons(tiny: ms.Model, result: ms.Attribution) -> None:
    links = tiny.query_graph(result, values=3, depth=3, width=4)
    roots = links.nodes[links.nodes["depth"] == 0]
    assert set(roots["kind"]) == {"ffn", "attention"}
    assert len(roots) == 6
    assert np.allclose(
        roots["value_score"].sum(),
        sum(table["direct"].head(3).sum() for table in (result.ffn_neurons, result.attention_neurons)),
    )
    assert links.edges.groupby("target").size().max() <= 4
    assert set(links.edges["source"]) | set(links.edges["target"]) == set(links.nodes["id"])
    given = links.edges.groupby("source")["score"].sum()
    received = links.nodes.set_index("id").loc[given.index, "query_score"]
    assert received.to_numpy() == pytest.approx(given.to_numpy(), rel=1e-4, abs=1e-6)


# GPT-2 has most links, tens of thousands.
@pytest.mark.parametrize(
    "tiny",
    chosen_on_push(EVERY_REPRESENTATIVE, "gpt_neox", "llama-grouped_heads", "gemma2", "olmo2", "granite"),
    indirect=True,
)
def test_all_links_of_a_node_explain_it_wholly(tiny: ms.Model, result: ms.Attribution) -> None:
    """Neurons, heads by position, embeddings, biases: with all of them as links nothing is missing."""
    links = tiny.query_graph(result, values=1, depth=2, width=5000)
    taken_apart = links.nodes[links.nodes["explained"].notna() & ~links.nodes["skipped"]]
    assert len(taken_apart[taken_apart["depth"] == 1]) > 20
    strong = taken_apart[(taken_apart["value_score"] + taken_apart["query_score"]).abs() > 1e-4]
    assert {"ffn", "head"} <= set(strong["kind"])
    assert strong["explained"].to_numpy() == pytest.approx(1, abs=2e-2)
    assert links.explained == pytest.approx(1, abs=1e-3)


def test_links_agree_with_query_scores(tiny: ms.Model, result: ms.Attribution) -> None:
    links = tiny.query_graph(result, values=5, depth=1, width=5000)
    queried = tiny.query(result, values=5, top=10)
    projections = links.edges["target"].str.split().str[0]
    sources = links.nodes.set_index("id")
    for kind, tables in (("attention", queried.of_attention), ("ffn", queried.of_ffn)):
        edges = links.edges[projections == kind]
        # A value neuron that others read has more to pass on than its own score.
        edges = edges.assign(score=edges["share"] * sources.loc[edges["target"], "value_score"].to_numpy())
        names = sources.loc[edges["source"]]
        got = edges.assign(kind=names["kind"].to_numpy(), layer=names["layer"].to_numpy()).assign(
            neuron=names["neuron"].to_numpy(), head=names["head"].to_numpy()
        )
        ffn = got[got["kind"] == "ffn"].groupby(["layer", "neuron"])["score"].sum()
        for row in tables.ffn_neurons.itertuples():
            assert ffn[row.layer, row.neuron] == pytest.approx(row.score, rel=1e-3, abs=1e-5)
        heads = got[got["kind"] == "head"].groupby(["layer", "head"])["score"].sum()
        for row in tables.heads[tables.heads["score"] != 0].head(5).itertuples():
            assert heads[row.layer, row.head] == pytest.approx(row.score, rel=1e-3, abs=1e-5)


def test_links_as_networkx_and_json(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, top=5, query=False)
    links = result_links = llama.query_graph(result, values=2, depth=2, width=3)
    graph = links.to_networkx()
    assert graph.number_of_nodes() == len(links.nodes)
    assert graph.number_of_edges() == len(links.edges)
    document = result_links.to_json()
    assert {entry["id"] for entry in document["nodes"]} == set(graph)
    assert all("neuron" not in entry for entry in document["nodes"] if entry["kind"] == "head")


def test_a_prompt_too_long_for_the_budget_is_told(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, top=3, query=False)
    with pytest.raises(ms.OptionError, match="memory_budget"):
        llama.query_graph(result, memory_budget=1000)


def test_neurons_that_nothing_reads_take_no_place_in_the_lists(llama: ms.Model) -> None:
    result = llama.attribute(words(5, 6, 7, 8, 9, 10, 11, 12, 13))
    few, many = (result.query(top=top).of_ffn.ffn_neurons for top in (100, 10_000))
    assert (many["score"] != 0).all()
    assert (many["score"] < 0).any()
    assert few.equals(many.head(100))
