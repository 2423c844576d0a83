"""One forward pass in float64 taken apart: inputs and outputs of every projection to the stream."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oracle import places
from oracle.float64 import InFloat64
from oracle.norms import Norm, norm_of

_EXACT = 1e-9


@dataclass(frozen=True)
class Written:
    """What a block's attention or FFN adds to the stream, as a sum over its neurons.

    Attributes:
        coefficients: inputs of the projection, router weights included, `[n_tokens, n]`.
        columns: each neuron's direction, multipliers and a post-norm's weight included, `[n, d_model]`.
        scale: of the post-norm, frozen, `[n_tokens, 1]`.
        constant: biases, no neuron's, `[n_tokens, d_model]`.
        output: `scale * coefficients @ columns + constant`, `[n_tokens, d_model]`.
        raw: the projection's matrix, `[n, d_model]`.
        given: the tensor that the projection gave, for gradients, `[..., d_model]`.
    """

    coefficients: Tensor
    columns: Tensor
    scale: Tensor
    constant: Tensor
    output: Tensor
    raw: Tensor
    given: Tensor


@dataclass(frozen=True)
class Watched:
    """A block in one forward pass.

    Attributes:
        resid_pre, resid_post: the stream before and behind it, `[n_tokens, d_model]`.
        attention, ffn: its outputs.
        pattern: attention weights, `[n_heads, n_tokens, n_tokens]`.
        by_source: each source position's share of the inputs of the attention's projection,
            `[n_tokens, n_heads, d_head, n_sources]`.
    """

    resid_pre: Tensor
    resid_post: Tensor
    attention: Written
    ffn: Written
    pattern: Tensor
    by_source: Tensor


@dataclass(frozen=True)
class Pass:
    """A model in one forward pass over one prompt.

    Attributes:
        blocks: by layer.
        final_norm: as a formula.
        logits: the model's own, of the last position, `[n_vocabulary]`; gradients flow.
    """

    blocks: list[Watched]
    final_norm: Norm
    logits: Tensor


def watch(model: Any, ids: tuple[int, ...]) -> Pass:
    """Run a float64 model on one prompt and take it apart.

    Raises:
        AssertionError: the parts do not sum to what the model computes.
    """
    seen: dict[nn.Module, Any] = {}
    products: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    blocks, final_norm = places.blocks_of(model), places.final_norm_of(model)
    with ExitStack() as stack:
        mode = InFloat64(len(ids))

        def see(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            seen[module] = (*args, *kwargs.values()), output[0] if isinstance(output, tuple) else output
            # Some families add to an output in place.
            return output.clone() if isinstance(output, Tensor) else None

        def see_attention(module: nn.Module, args: Any) -> None:
            products[module] = mode.pattern, mode.values

        for module in model.modules():
            handle = module.register_forward_hook(see, with_kwargs=True)
            stack.callback(handle.remove)
        for block in blocks:
            handle = places.attention_output_of(block).register_forward_pre_hook(see_attention)
            stack.callback(handle.remove)
        stack.enter_context(mode)
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
    found = [_block(model, block, seen, products) for block in blocks]
    norm = _norm(final_norm, seen)
    assert norm is not None
    return Pass(found, norm, logits)


def _block(
    model: Any, block: nn.Module, seen: dict[nn.Module, Any], products: dict[nn.Module, Any]
) -> Watched:
    multiplier = places.residual_multiplier(model)
    post_norms = [_norm(module, seen) for module in places.post_norms_of(model, block)]
    inner_norm = places.inner_norms_of(model, block)[0]
    projection = places.attention_output_of(block)
    entered, given = _given(projection, seen), seen[projection][1]
    raw = places.matrix_of(projection)
    attention = _written(entered, raw, _bias(projection, entered), given, post_norms[0], multiplier)
    ffn = _written(*_ffn(block, seen), post_norms[1], multiplier)
    pattern, by_source = _by_source(*products[projection], len(entered))
    if model.config.model_type in places.SINKS_BEHIND_THE_PRODUCT:
        factor = _factor(by_source.sum(-1), entered)
        pattern, by_source = pattern * factor.T[..., None], by_source * factor[..., None, None]
    if inner_norm is not None:
        norm, state = _norm(inner_norm, seen), _given(inner_norm, seen)
        assert norm is not None
        factors = (norm.gamma * norm.scale(state)).view(*by_source.shape[:3], 1)
        by_source = by_source * factors
    resid_pre = _given(block, seen)
    resid_post = _flat(seen[block][1])
    _check(by_source.sum(-1).flatten(1), entered, "values from every position")
    _check(resid_pre + attention.output + ffn.output, resid_post, "attention and FFN")
    return Watched(resid_pre, resid_post, attention, ffn, pattern, by_source)


def _written(
    entered: Tensor, raw: Tensor, bias: Tensor, given: Tensor, norm: Norm | None, multiplier: float
) -> Written:
    summed = entered @ raw + bias
    _check(summed, _flat(given), "neurons and biases")
    if norm is None:
        scale, columns, constant = torch.ones_like(entered[:, :1]), raw * multiplier, bias * multiplier
    else:
        scale, columns = norm.scale(summed), norm.frozen(raw, multiplier)
        constant = (norm.frozen(bias, scale) + norm.beta) * multiplier
    output = scale * (entered @ columns) + constant
    return Written(entered, columns, scale, constant.expand_as(output), output, raw, given)


def _ffn(block: nn.Module, seen: dict[nn.Module, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Collect coefficients, matrix, bias and output of a block's FFN, all experts' neurons in one row."""
    experts, shared, gate = places.experts_of(block)
    if experts is None or experts not in seen:
        projection = places.ffn_output_of(block)
        entered = _given(projection, seen)
        return entered, places.matrix_of(projection), _bias(projection, entered), seen[projection][1]
    coefficients, raw, bias = _routed(experts, *seen[experts][0][:3])
    if shared is not None:
        entered = _given(shared, seen)
        factor = 1.0 if gate is None else _flat(seen[gate][1]).sigmoid()
        coefficients = torch.cat([coefficients, entered * factor], dim=1)
        raw = torch.cat([raw, places.matrix_of(shared)])
        bias = bias + _bias(shared, entered) * factor
    return coefficients, raw, bias, seen[places.ffn_of(block)][1]


def _routed(experts: Any, states: Tensor, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run every expert on every token, each weighted by the router."""
    n_experts = len(experts.down_proj)
    states, index, weights = _flat(states), _flat(index), _flat(weights)
    routing = torch.zeros(len(states), n_experts, dtype=torch.float64)
    if weights.shape == routing.shape and index.shape != weights.shape:
        routing = weights
    else:
        routing = routing.scatter(1, index, weights)
    if type(experts).__name__ == "GptOssExperts":
        read = torch.einsum("td,edn->ten", states, experts.gate_up_proj) + experts.gate_up_proj_bias
        gate, up = (
            read[..., ::2].clamp(max=experts.limit),
            read[..., 1::2].clamp(-experts.limit, experts.limit),
        )
        active = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
        down, bias = experts.down_proj, routing @ experts.down_proj_bias
    else:
        gate, up = torch.einsum("td,end->ten", states, experts.gate_up_proj).chunk(2, dim=-1)
        active = experts.act_fn(gate) * up
        down, bias = experts.down_proj.transpose(1, 2), torch.zeros_like(states)
    return (active * routing[..., None]).flatten(1), down.flatten(0, 1), bias


def _by_source(pattern: Tensor, values: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Multiply attention weights and values by head and source position."""
    pattern, values = (product.reshape(-1, *product.shape[-2:]) for product in (pattern, values))
    if len(values) == 1:
        values = values.expand(len(pattern), -1, -1)
    if pattern.shape[-2:] != (n_tokens, n_tokens) or values.shape[1] != n_tokens:
        raise AssertionError("the attention product was not seen")
    return pattern, torch.einsum("hts,hsk->thks", pattern, values)


def _factor(summed: Tensor, entered: Tensor) -> Tensor:
    """Compute each head's factor between its product and the projection's input, `[n_tokens, n_heads]`."""
    return (summed * entered.view_as(summed)).sum(-1) / summed.square().sum(-1)


def _norm(module: Any, seen: dict[nn.Module, Any]) -> Norm | None:
    if module is None:
        return None
    return norm_of(module, _given(module, seen), _flat(seen[module][1]))


def _given(module: nn.Module, seen: dict[nn.Module, Any]) -> Tensor:
    return _flat(seen[module][0][0])


def _flat(states: Tensor) -> Tensor:
    return states.reshape(-1, states.shape[-1])


def _bias(module: Any, entered: Tensor) -> Tensor:
    bias = getattr(module, "bias", None)
    n_outputs = places.matrix_of(module).shape[1]
    return entered.new_zeros(n_outputs) if bias is None else bias


def _check(found: Tensor, expected: Tensor, name: str) -> None:
    error = float(((found - expected).abs().max() / expected.abs().max().clamp_min(1)).detach())
    assert error <= _EXACT, f"{name} do not sum to what the model computes, by {error:.1e}"
