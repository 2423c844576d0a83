"""Links among the nodes of a circuit: the query graph's edges among them (docs/method.md#query-score)."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.query.graph import NodeKind
from mnemoscope.attribution.query.scores import ValueNeurons, inner_products, subkeys
from mnemoscope.circuit.nodes import NodeSpace
from mnemoscope.circuit.running import CircuitRunner
from mnemoscope.model.components import ResidualDecomposition
from mnemoscope.results.columns import CIRCUIT_TABLES

# Pairs whose clean prompts are decomposed; the links of others hardly differ.
N_PAIRS = 20
# Nodes that are linked, the best ones; the shares of n nodes take n * n numbers.
MOST_NODES = 1000
# Shares below this are left out.
SMALLEST_SHARE = 0.01


def links(runner: CircuitRunner, nodes: Tensor) -> pd.DataFrame:
    """Compute the share of each node in what the FFN neurons among the nodes read.

    A link goes from a node to an FFN neuron that reads the stream after it at the same position: the node's
    own, or the last one where nodes have no position. A pair counts as 0 where a neuron's components cancel.

    Args:
        runner: the pairs; the clean prompts of the first `N_PAIRS` are run.
        nodes: numbers of the nodes, best first, `[n]`; the first `MOST_NODES` are linked.

    Returns:
        The table `circuit_edges`, with rows of the nodes as source and target, largest absolute share first.
        Empty for models whose neurons' inputs were not found.
    """
    language_model, space, nodes = runner.language_model, runner.space, nodes[:MOST_NODES]
    shares = torch.zeros(len(nodes), len(nodes), dtype=torch.float64)
    pairs = runner.pairs[:N_PAIRS]
    places = places_of(space, nodes)
    if language_model.structure.is_readable and len(nodes) and bool((places[:, 0] == NodeKind.FFN).any()):
        for pair in pairs:
            _, (components,) = language_model.capture_with_components([pair.clean.ids])
            shares += _shares(space, components, places) / len(pairs)
    target, source = torch.nonzero(shares.abs() >= SMALLEST_SHARE, as_tuple=True)
    found = shares[target, source]
    order = found.abs().argsort(descending=True, stable=True)
    columns = {
        "source": source[order].numpy(),
        "target": target[order].numpy(),
        "share": found[order].numpy(),
    }
    return pd.DataFrame(columns).astype(CIRCUIT_TABLES["edges"])


def places_of(space: NodeSpace, nodes: Tensor) -> Tensor:
    """Return kind, layer, neuron or head, and position (-1 for all) of nodes, `[n] -> [n, 4]`."""
    group, position, unit = space.locate(nodes)
    of_group = torch.tensor([(NodeKind[g.kind.upper()], g.layer) for g in space.groups])[group]
    position = position if space.n_positions else torch.full_like(position, -1)
    return torch.cat([of_group, unit[:, None], position[:, None]], dim=1)


def _shares(space: NodeSpace, components: ResidualDecomposition, places: Tensor) -> Tensor:
    """Compute the shares of nodes (across) in what FFN neurons among them (down) read, `[n, n]` float64."""
    structure, device = space.structure, components.positions.device
    last = len(components.positions) - 1
    kind, layer, unit, position = places.unbind(1)
    position = torch.where(position < 0, last, position)
    reading = torch.nonzero(kind == NodeKind.FFN)[:, 0]
    neurons = ValueNeurons(
        "ffn",
        layer[reading].to(device),
        unit[reading].to(device),
        position[reading].to(device),
        torch.ones(len(reading), device=device),
    )
    read = subkeys(structure, components, neurons, None)
    rows = torch.stack([kind, layer, unit, position], dim=1).tolist()
    written = torch.stack([_written(space, components, *row) for row in rows])
    by_path = inner_products(components, read).share[:, None] * (read.keys.double() @ written.double().T)
    shares = torch.zeros(len(reading), len(places), dtype=torch.float64, device=device)
    shares.index_add_(0, read.neuron, by_path)
    # In sequential blocks an FFN reads what the attention of its layer wrote too.
    first_later = layer[reading, None] + ((kind != NodeKind.FFN) & (not structure.parallel))
    seen = (layer < first_later) & (position == position[reading, None])
    found = torch.zeros(len(places), len(places), dtype=torch.float64)
    found[reading] = torch.where(seen, shares.cpu(), 0.0)
    return found


def _written(
    space: NodeSpace, components: ResidualDecomposition, kind: int, layer: int, unit: int, position: int
) -> Tensor:
    """Return what a node writes to the stream at a position, `[d_model]`."""
    block = space.structure.blocks[layer]
    if kind == NodeKind.FFN:
        columns = block.ffn_output.columns(torch.tensor([unit]))
        return components.ffn_coefficients[layer, position, unit] * columns[0]
    width = space.structure.d_head if kind == NodeKind.HEAD else 1
    inputs = torch.arange(unit * width, (unit + 1) * width)
    coefficients = components.attention_coefficients[layer, position, inputs.to(components.positions.device)]
    return coefficients @ block.attention_output.columns(inputs)
