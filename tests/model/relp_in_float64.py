"""RelP in another way than the package's: modules of a float64 copy are replaced, attention written out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from mnemoscope.model.structure import ModelStructure


def relp_in_float64(
    model: PreTrainedModel,
    structure: ModelStructure,
    prompts: Sequence[Sequence[int]],
    metric: Callable[[Tensor], Tensor],
) -> dict[str, list[Tensor]]:
    """Gradients of RelP by what enters both projections of each block, `[n_prompts, n_tokens, n]` each.

    Args:
        model: of which a copy runs.
        structure: only for the names of the projections.
        prompts: of one length.
        metric: of the last position's logits.
    """
    wide: Any = copy.deepcopy(model).double()
    AttentionInterface.register("held", _attention)
    AttentionMaskInterface.register("held", AttentionMaskInterface()["eager"])
    wide.set_attn_implementation("held")
    seen: dict[str, list[Tensor]] = {"attention": [], "ffn": []}
    for module in wide.modules():
        _replace(module, seen["ffn"])
    for block in structure.blocks:
        for kind, projection in (("attention", block.attention_output), ("ffn", block.ffn_output)):
            if hasattr(projection.module, "n_experts"):
                continue  # Kept by what stands for the experts.
            module = wide.get_submodule(projection.name)
            module.register_forward_pre_hook(lambda module, args, kind=kind: seen[kind].append(args[0]))
    hidden = wide.base_model(input_ids=torch.tensor(prompts), use_cache=False).last_hidden_state[:, -1]
    logits = wide.get_output_embeddings()(hidden)
    config = wide.config
    logits = logits * getattr(config, "logit_scale", 1) / getattr(config, "logits_scaling", 1)
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = logits * ((logits / cap).tanh() * cap / logits).detach()
    every = [tensor for tensors in seen.values() for tensor in tensors]
    gradients = iter(torch.autograd.grad(metric(logits).sum(), every))
    shape = (len(prompts), len(prompts[0]), -1)
    return {kind: [next(gradients).reshape(shape) for _ in tensors] for kind, tensors in seen.items()}


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention with fixed weights."""
    n_repeats = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(n_repeats, dim=1) for states in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    weights = (scores + attention_mask.double()).softmax(-1).detach()
    return (weights @ value).transpose(1, 2).contiguous(), None


def _replace(module: Any, ffn: list[Tensor]) -> None:
    name = type(module).__name__
    if name.endswith("RMSNorm"):
        module.forward = partial(_rms_norm, module, 1 if "Gemma" in name else 0)
    elif name in ("CohereLayerNorm", "LayerNorm"):
        module.forward = partial(_layer_norm, module)
    elif type(module).__module__ in ("transformers.activations", "torch.nn.modules.activation"):
        module.forward = partial(_activation, module.forward)
    elif hasattr(module, "gate_up_proj"):
        module.forward = partial(_experts, module, ffn)
    elif hasattr(module, "gate_proj"):
        module.forward = partial(_gated, module)
    elif hasattr(module, "shared_expert_gate"):
        gate = module.shared_expert_gate
        gate.forward = lambda states, forward=gate.forward: forward(states).detach()


def _rms_norm(module: Any, offset: int, states: Tensor) -> Tensor:
    epsilon: float = getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))
    sigma = (states.pow(2).mean(-1, keepdim=True) + epsilon).sqrt().detach()
    return states / sigma * (module.weight + offset)


def _layer_norm(module: Any, states: Tensor) -> Tensor:
    epsilon: float = getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))
    sigma = (states.var(-1, unbiased=False, keepdim=True) + epsilon).sqrt().detach()
    normed = (states - states.mean(-1, keepdim=True)) / sigma * module.weight
    return normed if getattr(module, "bias", None) is None else normed + module.bias


def _activation(forward: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    return states * (forward(states) / states).detach()


def _half(one: Tensor, other: Tensor) -> Tensor:
    return (one * other.detach() + one.detach() * other) / 2


def _gated(module: Any, states: Tensor) -> Tensor:
    coefficients = _half(module.act_fn(module.gate_proj(states)), module.up_proj(states))
    norm = getattr(module, "ffn_sub_norm", nn.Identity())
    return module.down_proj(norm(coefficients))


def _experts(module: Any, ffn: list[Tensor], states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    routing = torch.zeros(len(states), len(module.down_proj), dtype=torch.double)
    routing = routing.scatter(1, index, weights.double()).detach()
    coefficients = []
    for expert, rows in enumerate(module.gate_up_proj):
        gate, up = (states @ rows.T).chunk(2, dim=-1)
        coefficients.append(_half(module.act_fn(gate), up) * routing[:, expert, None])
    ffn.append(torch.cat(coefficients, dim=-1))
    return ffn[-1] @ module.down_proj.transpose(1, 2).flatten(0, 1)
