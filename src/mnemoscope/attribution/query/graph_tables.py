"""The query graph as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from mnemoscope.attribution.query.graph import Graph, Linker, NodePlace
from mnemoscope.attribution.query.tables import attention_values, ffn_values
from mnemoscope.errors import OptionError
from mnemoscope.model.activations import capture_components
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import EDGE_COLUMNS, NODE_COLUMNS

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Extent:
    """How far to follow.

    Attributes:
        values: how many value neurons of each kind to begin with.
        depth: how many steps to go back.
        width: how many links to keep of each node.
    """

    values: int
    depth: int
    width: int


def follow(language_model: LanguageModel, result: Attribution, extent: Extent, budget: int) -> Graph:
    """The graph of a result's value neurons, by one forward pass kept at every position.

    Raises:
        OptionError: what is kept of the prompt would not fit the budget, in bytes.
        UnsupportedModelError: what the model's neurons read could not be found.
    """
    structure, n_tokens = language_model.structure, len(result.tokens)
    width = structure.d_ff + 3 * structure.n_heads * structure.d_head + 6 * structure.d_model
    needed = 4 * n_tokens * structure.n_layers * width
    if needed > budget:
        raise OptionError(
            f"to follow links through {n_tokens} tokens {needed / 2**20:.0f} MiB are needed, the budget is "
            f"{budget / 2**20:.0f} MiB; shorten the prompt or give a larger memory_budget"
        )
    groups = [
        attention_values(result.attention_neurons.head(extent.values), language_model),
        ffn_values(result.ffn_neurons.head(extent.values), language_model, n_tokens - 1),
    ]
    components = capture_components(
        language_model.model, structure, result.token_ids, range(n_tokens), calls=True
    )
    with torch.no_grad():
        return Linker(structure, components, extent.depth, extent.width).link(groups)


def tables_of(graph: Graph, d_head: int, tokens: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nodes and edges of a graph as tables, the strongest first."""
    nodes = [
        {
            "id": name_of(place, d_head),
            **_numbers(place, d_head),
            "token": tokens[place.reads],
            "depth": node.depth,
            "value_score": node.value_score,
            "query_score": node.query_score,
            "explained": node.explained,
            "skipped": node.skipped,
        }
        for place, node in graph.nodes.items()
    ]
    edges = [
        {
            "source": name_of(edge.source, d_head),
            "target": name_of(edge.target, d_head),
            "score": edge.score,
            "share": edge.share,
            "inner_product": edge.inner_products.get("value", edge.inner_products.get("up")),
            "gate_inner_product": edge.inner_products.get("gate"),
        }
        for edge in graph.edges
    ]
    node_table = pd.DataFrame(nodes, columns=list(NODE_COLUMNS))
    for name in ("layer", "neuron", "head", "dim"):
        node_table[name] = node_table[name].astype("Int64")
    node_table["explained"] = node_table["explained"].astype(float)
    edge_table = pd.DataFrame(edges, columns=list(EDGE_COLUMNS))
    for name in EDGE_COLUMNS[2:]:
        edge_table[name] = edge_table[name].astype(float)
    strength = {"key": lambda column: -column.abs(), "kind": "stable", "ignore_index": True}
    score = node_table["value_score"] + node_table["query_score"]
    order = score.abs().sort_values(ascending=False, kind="stable").index
    return node_table.loc[order].reset_index(drop=True), edge_table.sort_values("score", **strength)


def name_of(place: NodePlace, d_head: int) -> str:
    """A node's name, such as `ffn 24.1005 @7` or `head 23.4 @3>7` (reads position 3, writes position 7)."""
    at = f"@{place.writes}" if place.reads == place.writes else f"@{place.reads}>{place.writes}"
    if place.kind in ("embeddings", "biases"):
        return f"{place.kind} {at}"
    index = f"{place.number // d_head}.{place.number % d_head}" if place.kind == "attention" else place.number
    return f"{place.kind} {place.layer}.{index} {at}"


def _numbers(place: NodePlace, d_head: int) -> dict[str, Any]:
    """What names a place, by column; None where a kind has no such number."""
    is_head = place.kind == "head"
    is_neuron = place.kind == "attention"
    return {
        "kind": place.kind,
        "layer": None if place.layer < 0 else place.layer,
        "neuron": place.number if place.kind == "ffn" else None,
        "head": place.number if is_head else place.number // d_head if is_neuron else None,
        "dim": place.number % d_head if is_neuron else None,
        "position": place.reads,
        "writes": place.writes,
    }


def share_explained(graph: Graph) -> float:
    """The share of all value neurons' scores that the links to them explain."""
    roots = [node for node in graph.nodes.values() if node.depth == 0]
    total = sum(node.score for node in roots)
    return sum(node.score * (node.explained or 0.0) for node in roots) / total if total else 0.0
