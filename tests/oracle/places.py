"""Rules that find the parts of each family of transformers by the names of its modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_ATTENTIONS = ("self_attn", "attn.attention", "attn", "attention", "self_attention")
_ATTENTION_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj")
_FFNS = ("mlp", "ffn", "block_sparse_moe")
_FFN_OUTPUTS = ("down_proj", "dense_4h_to_h", "fc2", "fc_out", "c_proj")
_SHARED = ("shared_expert", "shared_experts", "shared_mlp")
_FINAL_NORMS = ("norm", "ln_f", "norm_f", "final_layer_norm", "final_layernorm", "layer_norm")
_BEHIND = ("post_attention_layernorm", "post_feedforward_layernorm")
_POST_NORMS = {
    **dict.fromkeys(("gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4", "flex_olmo"), _BEHIND),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
    "hyperclovax": ("post_norm1", "post_norm2"),
}
_INNER_NORMS = {"bitnet": ("attn_sub_norm", "ffn_sub_norm")}
_PARALLEL = {"phi", "gptj", "codegen", "cohere", "cohere2", "cohere2_moe"}
# Families whose code scales each head by its attention sink after the product with the values.
SINKS_BEHIND_THE_PRODUCT = {"granite_swa", "granitemoe_swa"}


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """List the layers."""
    depth = model.config.num_hidden_layers
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    return list(next(lists))


def final_norm_of(model: nn.Module) -> nn.Module:
    """Find the norm before the head, beside the list of layers."""
    depth = model.config.num_hidden_layers
    for module in model.modules():
        if any(isinstance(m, nn.ModuleList) and len(m) == depth for m in module.children()):
            return _first(module, _FINAL_NORMS)
    raise AssertionError("no final norm")


def attention_of(block: nn.Module) -> nn.Module:
    """Find a block's attention."""
    return _first(block, _ATTENTIONS)


def attention_output_of(block: nn.Module) -> nn.Module:
    """Find the projection from a block's heads to the stream."""
    return _first(attention_of(block), _ATTENTION_OUTPUTS)


def ffn_of(block: nn.Module) -> nn.Module:
    """Find a block's FFN; the block itself where its projections are the block's own."""
    return next((found for name in _FFNS if (found := _at(block, name)) is not None), block)


def ffn_output_of(block: nn.Module) -> nn.Module:
    """Find the projection from a block's FFN neurons to the stream."""
    return _first(ffn_of(block), _FFN_OUTPUTS)


def experts_of(block: nn.Module) -> tuple[Any, nn.Module | None, nn.Module | None]:
    """Find a block's routed experts, its shared output projection and its gate, or None."""
    ffn = ffn_of(block)
    shared = next((m for name in _SHARED if (m := _at(ffn, name)) is not None), None)
    projection = None if shared is None else _first(shared, _FFN_OUTPUTS)
    return _at(ffn, "experts"), projection, _at(ffn, "shared_expert_gate")


def post_norms_of(model: nn.Module, block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """Find the norms between attention, FFN and the stream."""
    names = _POST_NORMS.get(model.config.model_type)
    return (None, None) if names is None else (_at(block, names[0]), _at(block, names[1]))


def inner_norms_of(model: nn.Module, block: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """Find the norms between heads, FFN neurons and their projections."""
    names = _INNER_NORMS.get(model.config.model_type)
    if names is None:
        return None, None
    return _at(attention_of(block), names[0]), _at(ffn_of(block), names[1])


def is_parallel(model: nn.Module) -> bool:
    """Test whether attention and FFN read one state of the stream."""
    config = model.config
    if config.model_type == "falcon":
        return config.parallel_attn or config.new_decoder_architecture
    return config.model_type in _PARALLEL or bool(getattr(config, "use_parallel_residual", False))


def residual_multiplier(model: nn.Module) -> float:
    """Read the factor of block outputs before they are added to the stream."""
    return float(getattr(model.config, "residual_multiplier", 1.0))


def logit_scale(model: nn.Module) -> float:
    """Read the factor of the head's output."""
    config = model.config
    if config.model_type.startswith("cohere"):
        return float(config.logit_scale)
    scaling = float(getattr(config, "logits_scaling", 1.0))
    return scaling if config.model_type == "hyperclovax" else 1 / scaling


def soft_cap(model: nn.Module) -> float | None:
    """Read the bound of the logits; None without one."""
    return getattr(model.config, "final_logit_softcapping", None)


def matrix_of(module: Any) -> Tensor:
    """Read a projection's weight as `[n_inputs, n_outputs]`, whichever way it is stored."""
    return module.weight if type(module).__name__ == "Conv1D" else module.weight.T


def _first(module: nn.Module, names: tuple[str, ...]) -> nn.Module:
    found = next((m for name in names if (m := _at(module, name)) is not None), None)
    assert found is not None, f"{type(module).__name__} has none of {names}"
    return found


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
