"""Slow, plain, exhaustive value scores of a Llama-like model, to check and time Mnemoscope against.

The algorithm of "Neuron-Level Knowledge Attribution in Large Language Models" (EMNLP 2024) read
literally: one forward pass, then for part after part the vector it adds to the residual stream, the
state it is added to, their sum projected to the vocabulary through the frozen final norm, and the
difference of the target's log probability, in float32. It shares no code with the package.

Parts are projected one after another unless `batch` says how many to project at once; the authors'
notebooks project the neurons of a layer together, so a fair timing gives both.

    reference = Reference(model, token_ids, target_id)
    scores = reference.score("ffn_neurons", reference.keys("ffn_neurons", layers=[23, 24]))
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

TABLES = ("layers", "heads", "ffn_neurons", "attention_neurons")
Key = tuple[Any, ...]
Calls = dict[nn.Module, tuple[tuple[Any, ...], Any]]  # inputs and output of each module's last call


def _last(output: Tensor) -> Tensor:
    """The last position of a `[1, n_tokens, ...]` output in float32."""
    return output[0, -1].float()


class Part(NamedTuple):
    """A vector `[d_model]` that the "attention" or "ffn" block of a layer adds to the stream."""

    layer: int
    kind: str
    vector: Tensor


@dataclass(frozen=True)
class Timing:
    """Seconds that scoring a sample of parts took, and what all parts would take at that rate."""

    n_parts: int
    n_sampled: int
    seconds_measured: float
    seconds_extrapolated: float


class Layer:
    """What one layer read and wrote at the last position, and its weights, in float32."""

    def __init__(self, module: Any, calls: Calls) -> None:
        attention, mlp = module.self_attn, module.mlp
        states = {"attention": module.input_layernorm, "ffn": module.post_attention_layernorm}
        # The states `[d_model]` that the two blocks are added to, and what they add `[d_model]`.
        self.states = {kind: _last(calls[norm][0][0]) for kind, norm in states.items()}
        self.outputs = {"attention": _last(calls[attention][1][0]), "ffn": _last(calls[mlp][1])}
        self.attention = calls[attention][1][1][0, :, -1].float()  # [n_heads, n_tokens]
        values = calls[attention.v_proj][1][0].float()  # [n_tokens, n_kv_heads * d_head]
        self.values = values.unflatten(-1, (-1, attention.head_dim))
        self.coefficients = _last(calls[mlp.down_proj][0][0])  # [n_neurons]
        self.output_weight = attention.o_proj.weight.float()  # [d_model, n_heads * d_head]
        self.down_weight = mlp.down_proj.weight.float()  # [d_model, n_neurons]

    def head(self, head: int) -> tuple[Tensor, Tensor, Tensor]:
        """A head's attention row `[n_tokens]`, values `[n_tokens, d_head]`, output columns."""
        group = len(self.attention) // self.values.shape[1]
        columns = self.output_weight.unflatten(-1, (len(self.attention), -1))
        return self.attention[head], self.values[:, head // group], columns[:, head]


class Reference:
    """One prompt run through the model, with what is needed to form and score any part.

    Args:
        model: a model with Llama's module names and without other norms, caps or multipliers.
        token_ids: the prompt, `[n_tokens]`.
        target_id: the token whose log probability after the prompt is attributed.

    Raises:
        ValueError: the blocks do not sum to the state the model reads its prediction from, or that
            state's readout is another prediction: the model is not Llama-like.
    """

    @torch.no_grad()
    def __init__(self, model: LlamaForCausalLM, token_ids: Sequence[int], target_id: int) -> None:
        self.calls = calls = _run(model, token_ids)
        norm: Any = model.model.norm
        final_state = _last(calls[norm][0][0])
        scale = torch.rsqrt(final_state.pow(2).mean() + norm.variance_epsilon)
        self.target_id = target_id
        self.frozen_norm = norm.weight.float() * scale
        self.unembedding = model.lm_head.weight.float()
        self.layers = [Layer(module, calls) for module in model.model.layers]
        self.base_scores = [
            {kind: self.log_probability(state) for kind, state in layer.states.items()}
            for layer in self.layers
        ]
        outputs = [output for layer in self.layers for output in layer.outputs.values()]
        total = self.layers[0].states["attention"] + torch.stack(outputs).sum(0)
        predicted = _last(calls[model.lm_head][1]).log_softmax(-1)[target_id]
        read = self.log_probability(torch.stack([total, final_state]))
        if not torch.allclose(read, predicted, rtol=1e-2, atol=1e-2):
            raise ValueError("the blocks do not add up to the prediction: not a Llama-like model")

    def log_probability(self, states: Tensor) -> Tensor:
        """Log probability of the target in nats, `[...]`, read from states `[..., d_model]`."""
        logits = (states * self.frozen_norm) @ self.unembedding.T
        return logits.log_softmax(-1)[..., self.target_id]

    def part(self, table: str, key: Key) -> Part:
        """One part of a table of `TABLES`, by a key as `keys` gives it."""
        index, *rest = key
        layer = self.layers[index]
        if table == "layers":
            return Part(index, rest[0], layer.outputs[rest[0]])
        if table == "ffn_neurons":
            (neuron,) = rest
            return Part(index, "ffn", layer.coefficients[neuron] * layer.down_weight[:, neuron])
        attention, values, columns = layer.head(rest[0])
        if table == "heads":
            return Part(index, "attention", columns @ (attention @ values))
        dim, position = rest[1:]
        coefficient = attention[position] * values[position, dim]
        return Part(index, "attention", coefficient * columns[:, dim])

    def keys(self, table: str, layers: Iterable[int] | None = None) -> list[Key]:
        """Every key of a table in the given layers (None: in all).

        Keys are (layer, kind), (layer, head), (layer, neuron) and (layer, head, dim, position).
        """
        n_tokens, _, d_head = self.layers[0].values.shape
        heads = range(len(self.layers[0].attention))
        axes: dict[str, list[Iterable[Any]]] = {
            "layers": [("attention", "ffn")],
            "heads": [heads],
            "ffn_neurons": [range(len(self.layers[0].coefficients))],
            "attention_neurons": [heads, range(d_head), range(n_tokens)],
        }
        return list(product(range(len(self.layers)) if layers is None else layers, *axes[table]))

    @torch.no_grad()
    def score(self, table: str, keys: Sequence[Key], batch: int = 1) -> dict[Key, float]:
        """Log-probability increase in nats of every part, `batch` of them projected at once."""
        scores: dict[Key, float] = {}
        for start in range(0, len(keys), batch):
            chosen = keys[start : start + batch]
            parts = [self.part(table, key) for key in chosen]
            states = [self.layers[part.layer].states[part.kind] + part.vector for part in parts]
            before = torch.stack([self.base_scores[part.layer][part.kind] for part in parts])
            increases = self.log_probability(torch.stack(states)) - before
            scores |= dict(zip(chosen, increases.tolist(), strict=True))
        return scores


def time_reference(
    model: LlamaForCausalLM, token_ids: Sequence[int], target_id: int, sample: int, batch: int = 1
) -> dict[str, Timing]:
    """Time a random sample of the parts of each table and extrapolate to all of them.

    The forward pass is not in these times. A table of no more than `sample` parts is timed whole.
    """
    reference = Reference(model, token_ids, target_id)
    timings = {}
    for table in TABLES:
        keys = reference.keys(table)
        sampled = random.Random(0).sample(keys, min(sample, len(keys)))
        reference.score(table, sampled[:batch], batch)  # warm up
        start = time.perf_counter()
        reference.score(table, sampled, batch)
        seconds = time.perf_counter() - start
        extrapolated = seconds / len(sampled) * len(keys)
        timings[table] = Timing(len(keys), len(sampled), seconds, extrapolated)
    return timings


def _run(model: LlamaForCausalLM, token_ids: Sequence[int]) -> Calls:
    calls: Calls = {}
    attention: Any = model.config._attn_implementation
    with ExitStack() as stack:
        stack.callback(model.set_attn_implementation, attention)
        model.set_attn_implementation("eager")  # the only one that gives back attention rows
        for module in model.modules():
            hook = module.register_forward_hook(lambda *call: calls.update({call[0]: call[1:]}))
            stack.callback(hook.remove)
        model(torch.tensor([list(token_ids)], device=model.device), use_cache=False)
    return calls
