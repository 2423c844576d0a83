"""Query scores by brute force, in float64: all neurons and components (docs/method.md#query-score)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oracle import places
from oracle.float64 import InFloat64
from oracle.norms import Norm, norm_of
from oracle.scores import Oracle

# A path whose components cancel to less than this share of their magnitudes is skipped with its neuron.
SMALLEST_REMAINDER = 1e-2


@dataclass
class Queries:
    """Query scores of components, nats.

    Attributes:
        embeddings: of the embeddings.
        layers: of attention and FFN outputs, `[n_layers, 2]`.
        attention: of attention neurons, sources added up, `[n_layers, n_heads * d_head]`.
        ffn: of FFN neurons, `[n_layers, n_neurons]`.
        skipped: how many value neurons were left out.
    """

    embeddings: float
    layers: Tensor
    attention: Tensor
    ffn: Tensor
    skipped: int = 0

    def heads(self, n_heads: int) -> Tensor:
        """Sum the scores of each head's neurons, `[n_layers, n_heads]`."""
        return self.attention.view(len(self.attention), n_heads, -1).sum(-1)


@torch.no_grad()
def queries_of_ffn(oracle: Oracle, neurons: Iterable[tuple[int, int]]) -> Queries:
    """Score the components that activate FFN value neurons `(layer, neuron)` at the last position."""
    found = _none(oracle)
    for layer, neuron in neurons:
        block = places.blocks_of(oracle.model)[layer]
        watched = oracle.run.blocks[layer]
        parallel = places.is_parallel(oracle.model)
        state = watched.resid_pre if parallel else watched.resid_pre + watched.attention.output
        rows = _ffn_rows(block, neuron)
        keys = [_key(_norm_before_ffn(block), state, -1, row) for row in rows]
        score = float(oracle.ffn_neurons[layer][neuron])
        _add(found, oracle, keys, score, layer, -1, sees_attention=not parallel)
    return found


@torch.no_grad()
def queries_of_attention(oracle: Oracle, neurons: Iterable[tuple[int, int, int, int]]) -> Queries:
    """Score the components that activate attention neurons `(layer, head, dim, position)` there."""
    found = _none(oracle)
    for layer, head, dim, position in neurons:
        block = places.blocks_of(oracle.model)[layer]
        n_heads, d_head = oracle.attention_neurons.shape[1:3]
        row = _value_row(places.attention_of(block), head, dim, n_heads, d_head)
        state = oracle.run.blocks[layer].resid_pre
        norm = block.ln_1 if hasattr(block, "ln_1") else block.input_layernorm
        score = float(oracle.attention_neurons[layer, head, dim, position])
        key = _key(norm, state, position, row)
        _add(found, oracle, [key], score, layer, position, sees_attention=False)
    return found


def _add(
    found: Queries,
    oracle: Oracle,
    keys: list[Tensor],
    score: float,
    layer: int,
    position: int,
    *,
    sees_attention: bool,
) -> None:
    """Share a value neuron's score among the components at a position, equally among its paths."""
    blocks = oracle.run.blocks
    products = torch.zeros(len(keys), len(blocks), 2)
    for i, key in enumerate(keys):
        for before in range(layer + sees_attention):
            products[i, before, 0] = blocks[before].attention.output[position] @ key
        for before in range(layer):
            products[i, before, 1] = blocks[before].ffn.output[position] @ key
    embeddings = torch.stack([blocks[0].resid_pre[position] @ key for key in keys])
    total = embeddings + products.sum((1, 2))
    magnitude = embeddings.abs() + products.abs().sum((1, 2))
    if bool((total.abs() < SMALLEST_REMAINDER * magnitude).any()):
        found.skipped += 1
        return
    for i, key in enumerate(keys):
        weight = score / len(keys) / total[i]
        found.embeddings += float(weight * embeddings[i])
        found.layers += weight * products[i]
        for before in range(layer + sees_attention):
            written = blocks[before].attention
            found.attention[before] += weight * (_vectors(written, position) @ key)
        for before in range(layer):
            written = blocks[before].ffn
            found.ffn[before] += weight * (_vectors(written, position) @ key)


def _none(oracle: Oracle) -> Queries:
    blocks = oracle.run.blocks
    widths = (blocks[0].attention.columns.shape[0], blocks[0].ffn.columns.shape[0])
    shapes = [(len(blocks), 2), *((len(blocks), width) for width in widths)]
    return Queries(0.0, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))


def _vectors(written: Any, position: int) -> Tensor:
    return written.scale[position] * written.coefficients[position][:, None] * written.columns


def _key(norm: Any, states: Tensor, position: int, row: Tensor) -> Tensor:
    """Fold the norm, frozen at a position, into a reading row: `[d_model]`, in the stream's basis."""
    with torch.no_grad(), InFloat64(len(states)):
        formula: Norm = norm_of(norm, states, norm(states))
    identity = torch.eye(states.shape[1], dtype=torch.float64)
    return formula.frozen(identity, formula.scale(states[position])) @ row


def _norm_before_ffn(block: Any) -> Any:
    names = ("pre_feedforward_layernorm", "ln_2", "post_attention_layernorm", "input_layernorm")
    return next(getattr(block, name) for name in names if hasattr(block, name))


def _ffn_rows(block: Any, neuron: int) -> list[Tensor]:
    mlp = block.mlp
    if hasattr(mlp, "c_fc"):
        return [places.matrix_of(mlp.c_fc)[:, neuron]]
    return [mlp.gate_proj.weight[neuron], mlp.up_proj.weight[neuron]]


def _value_row(attention: Any, head: int, dim: int, n_heads: int, d_head: int) -> Tensor:
    if hasattr(attention, "c_attn"):
        return places.matrix_of(attention.c_attn)[:, 2 * n_heads * d_head + head * d_head + dim]
    n_kv_heads = attention.v_proj.weight.shape[0] // d_head
    return attention.v_proj.weight[head // (n_heads // n_kv_heads) * d_head + dim]
