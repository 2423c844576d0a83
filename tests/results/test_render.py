"""Short texts of results, and the files and notebook displays that they all have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx
import pandas as pd
import pytest

import mnemoscope as ms
from mnemoscope._io import json_text
from mnemoscope.errors import OutputError
from mnemoscope.results.render import quoted
from mnemoscope.testing import words

PROMPT, TARGET = words(5, 17, 80, 33), " w40"
# Results and a text that their repr and their display must have.
KINDS = {
    "Prediction": "w",
    "NeuronTokens": "FFN neuron 1.3",
    "HeadTokens": "2.1",
    "Ranking": "coefficient",
    "QueryGraph": "nodes",
    "QueryTables": "FFN neurons",
    "QueryNeurons": "FFN neurons",
}


@pytest.fixture(scope="module")
def results(llama: ms.Model) -> dict[str, Any]:
    attribution = llama.attribute(PROMPT, TARGET, top=5)
    queries = attribution.query_neurons
    assert queries is not None
    found = [
        attribution,
        llama.attribute_continuation(PROMPT, " w40 w41", top=3),
        llama.predict(PROMPT, 4),
        llama.neuron_tokens(1, 3, 4),
        llama.head_tokens(PROMPT, 2, 1, 4),
        llama.rank_neurons(PROMPT, TARGET, method="coefficient", top=4),
        llama.query_graph(attribution, values=2, width=2),
        queries.of_ffn,
        queries,
        llama.compare_ablation(PROMPT, TARGET, [ms.Head(1, 2)], seeds=1),
        llama.compare_query_ablation(attribution, top=3, values=5, of="ffn", seeds=1),
    ]
    return {type(each).__name__: each for each in found}


@pytest.mark.parametrize("by", ["total", "atp", "relp"])
def test_repr_has_the_effect_that_orders_the_lists(llama: ms.Model, by: Any) -> None:
    result = llama.attribute(PROMPT, TARGET, top=3, by=by, query=False)
    best = result.heads.to_dict("records")[0]
    assert f"heads: {best['layer']}.{best['head']} {best['total']:+.3g}" in repr(result)


def test_each_result_is_read_back_as_what_it_is(results: dict[str, Any], tmp_path: Path) -> None:
    saved = results["Attribution"].save(tmp_path / "attribution.json")
    with pytest.raises(OutputError, match="it holds no circuit; find one with"):
        ms.Circuit.load(saved)
    saved.write_text(saved.read_text().replace('"attribution"', '"circuit"', 1))
    with pytest.raises(OutputError, match=r"holds no attribution; .* `Circuit\.load` a circuit"):
        ms.Attribution.load(saved)
    whole = results["ContinuationAttribution"].save(tmp_path / "continuation.json")
    with pytest.raises(OutputError, match=r"`ContinuationAttribution\.load` reads several tokens"):
        ms.Attribution.load(whole)


def test_every_repr_is_short_and_names_its_result(results: dict[str, Any]) -> None:
    assert len(results) == 11
    for name, result in results.items():
        text = repr(result)
        assert text.startswith(f"<{name} ")
        assert len(text) < 600
        assert len(text.splitlines()) <= 6
    for name, text in KINDS.items():
        assert text in repr(results[name])


def test_repr_names_prompt_target_and_the_strongest_parts(results: dict[str, Any]) -> None:
    attribution = results["Attribution"]
    text = repr(attribution)
    assert f"of {attribution.targets.text} after {PROMPT!r}" in text
    best, head = attribution.ffn_neurons.iloc[0], attribution.heads.iloc[0]
    assert f"FFN neurons: {best['layer']}.{best['neuron']} +" in text
    assert f"heads: {head['layer']:.0f}.{head['head']:.0f} +" in text


def test_repr_of_lists_by_total_effect_gives_it(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, TARGET, top=3, by="total", query=False)
    best = result.ffn_neurons.iloc[0]
    assert f"FFN neurons: {best['layer']}.{best['neuron']} {best['total']:+.3g}," in repr(result)


def test_long_prompts_lose_their_middle() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert quoted("a" * 1000 + "end").endswith("aend'")
    assert len(quoted("a" * 1000)) < 70


@pytest.mark.parametrize("kind", KINDS)
def test_notebooks_show_it_without_scripts(results: dict[str, Any], kind: str) -> None:
    bundle = results[kind]._repr_mimebundle_()
    assert KINDS[kind] in bundle["text/html"]
    assert "<script" not in bundle["text/html"]
    assert bundle["text/plain"].strip()


@pytest.mark.parametrize("kind", [*KINDS, "ContinuationAttribution"])
def test_every_result_is_saved_as_json_and_csv(results: dict[str, Any], kind: str, tmp_path: Path) -> None:
    result = results[kind]
    written = result.save(tmp_path / "a.json")
    found, printed = json.loads(written.read_text(encoding="utf-8")), json.loads(json_text(result.to_json()))
    assert found | printed == found  # results that are read back have more
    saved = pd.read_csv(result.save(tmp_path / "a.csv"))
    tables = {name: table for name, table in result.tables().items() if len(table)}
    assert saved["table"].value_counts().to_dict() == {name: len(table) for name, table in tables.items()}
    with pytest.raises(OutputError, match="name a file that ends in"):
        result.save(tmp_path / "a.txt")


def test_lists_of_tokens_are_json_in_csv(results: dict[str, Any], tmp_path: Path) -> None:
    head = results["HeadTokens"]
    saved = pd.read_csv(head.save(tmp_path / "head.csv"))
    assert [json.loads(cell) for cell in saved["input"]] == head.table["input"].tolist()


def test_the_query_graph_is_saved_as_graphml(results: dict[str, Any], tmp_path: Path) -> None:
    graph = results["QueryGraph"]
    found = networkx.read_graphml(graph.save(tmp_path / "a.graphml"))
    assert set(found) == set(graph.nodes["id"])
