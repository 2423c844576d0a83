"""The query graph as tables."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from mnemoscope.attribution.query.graph import Graph, GraphBuilder, NodeKind
from mnemoscope.attribution.query.tables import attention_values, ffn_values
from mnemoscope.errors import OptionError
from mnemoscope.model.components import capture_components
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import EDGE_COLUMNS, NODE_COLUMNS


@dataclass(frozen=True)
class Extent:
    """Extent of a query graph.

    Attributes:
        values: number of value neurons of each kind to begin with.
        depth: number of steps to go back.
        width: number of edges to keep of each node.
    """

    values: int
    depth: int
    width: int


def follow(language_model: LanguageModel, result: Attribution, extent: Extent, budget: int) -> Graph:
    """Build the graph of a result's value neurons, by one forward pass kept at every position.

    Raises:
        OptionError: the kept activations do not fit the budget, in bytes.
        UnsupportedModelError: the input projections could not be found.
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
        return GraphBuilder(structure, components, extent.depth, extent.width).build(groups)


def tables_of(graph: Graph, d_head: int, tokens: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the nodes and the edges of a graph as tables, the strongest first."""
    kind, layer, number, reads, writes = graph.place.T
    columns = {
        "id": [name_of(place, d_head) for place in graph.place.tolist()],
        "kind": [NodeKind(i).word for i in kind],
        "layer": _known(layer, layer >= 0),
        "neuron": _known(number, kind == NodeKind.FFN),
        "head": _known(
            np.where(kind == NodeKind.ATTENTION, number // d_head, number),
            np.isin(kind, (NodeKind.HEAD, NodeKind.ATTENTION)),
        ),
        "dim": _known(number % d_head, kind == NodeKind.ATTENTION),
        "position": reads,
        "token": [tokens[position] for position in reads],
        "writes": writes,
        **graph.nodes,
    }
    nodes = pd.DataFrame(columns, columns=list(NODE_COLUMNS))
    edges = pd.concat(graph.edges)
    names = nodes["id"].to_numpy()
    edges = edges.assign(source=names[edges["source"]], target=names[edges["target"]]).filter(EDGE_COLUMNS)
    return _strongest_first(nodes, graph.score), _strongest_first(edges, np.asarray(edges["score"]))


def _strongest_first(table: pd.DataFrame, score: np.ndarray) -> pd.DataFrame:
    return table.iloc[np.argsort(-np.abs(score), kind="stable")].reset_index(drop=True)


def _known(numbers: np.ndarray, known: np.ndarray) -> pd.Series:
    """Return whole numbers as a column that lacks those that are not known."""
    return pd.Series(numbers).astype("Int64").where(known)


def name_of(place: Sequence[int], d_head: int) -> str:
    """Name a node, such as `ffn 24.1005 @7` or `head 23.4 @3>7` (reads position 3, writes position 7)."""
    kind, layer, number, reads, writes = place
    at = f"@{writes}" if reads == writes else f"@{reads}>{writes}"
    if kind in (NodeKind.EMBEDDINGS, NodeKind.BIASES):
        return f"{NodeKind(kind).word} {at}"
    index = f"{number // d_head}.{number % d_head}" if kind == NodeKind.ATTENTION else number
    return f"{NodeKind(kind).word} {layer}.{index} {at}"


def share_explained(graph: Graph) -> float:
    """Compute the share of all value neurons' scores that the edges to them explain."""
    roots = graph.nodes["depth"] == 0
    score, explained = graph.score[roots].tolist(), np.nan_to_num(graph.nodes["explained"][roots]).tolist()
    total = sum(score)
    return sum(map(operator.mul, score, explained)) / total if total else 0.0
