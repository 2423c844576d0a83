"""True ablations in float64: inputs of projections are set to 0 and the model is run again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oracle import places
from oracle.float64 import InFloat64
from oracle.scores import Oracle

Input = tuple[Literal["attention", "ffn"], int, int]


def head_inputs(oracle: Oracle, layer: int, head: int) -> list[Input]:
    """List all attention neurons of a head."""
    d_head = oracle.run.blocks[layer].by_source.shape[2]
    return [("attention", layer, head * d_head + dim) for dim in range(d_head)]


def drop(oracle: Oracle, inputs: Sequence[Input], positions: Sequence[int] | None = None) -> float:
    """Compute how far the target's value falls without some neurons, nats.

    Args:
        oracle: of the prediction.
        inputs: kind, layer and index among the layer's neurons.
        positions: where they are set to 0; None for everywhere, and nothing else for routed experts.
    """
    return oracle.value - float(oracle.value_of(log_p_without(oracle, inputs, positions)))


def log_p_without(oracle: Oracle, inputs: Sequence[Input], positions: Sequence[int] | None = None) -> Tensor:
    """Run the model with neurons' coefficients set to 0, `[n_vocabulary]`."""
    with torch.no_grad(), ExitStack() as stack:
        for kind, layer, index in inputs:
            block = places.blocks_of(oracle.model)[layer]
            if kind == "attention":
                _zero(stack, places.attention_output_of(block), index, positions)
            else:
                _zero_ffn(stack, oracle, block, index, positions)
        stack.enter_context(InFloat64(len(oracle.ids)))
        return oracle.model(torch.tensor([oracle.ids]), use_cache=False).logits[0, -1].log_softmax(-1)


def _zero_ffn(stack: ExitStack, oracle: Oracle, block: nn.Module, index: int, positions: Any) -> None:
    experts, shared, _ = places.experts_of(block)
    if experts is None:
        _zero(stack, places.ffn_output_of(block), index, positions)
        return
    transposed = type(experts).__name__ == "GptOssExperts"
    down = experts.down_proj if transposed else experts.down_proj.transpose(1, 2)
    n_experts, n_neurons, _ = down.shape
    if index >= n_experts * n_neurons:
        _zero(stack, shared, index - n_experts * n_neurons, positions)
        return
    assert positions is None, "an expert's neuron is silenced by its weights, so at every position"
    row = down.data[index // n_neurons, index % n_neurons]
    stack.callback(row.copy_, row.clone())
    row.zero_()


def _zero(stack: ExitStack, projection: Any, index: int, positions: Sequence[int] | None) -> None:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entered = args[0].clone()
        rows = entered.view(-1, entered.shape[-1])
        rows[slice(None) if positions is None else list(positions), index] = 0
        return entered, *args[1:]

    stack.callback(projection.register_forward_pre_hook(hook).remove)
