"""Mixture-of-experts families: name, transformers type, variant, and settings of a tiny model.

The tiny models have more experts than a token is routed to, and experts of another size than dense layers.
"""

from __future__ import annotations

from typing import Any

from mnemoscope.model.families.dense import GRANITE, GROUPED, LAYERS_IN_TURN

_HEADS = {**GROUPED, "intermediate_size": 24, "num_experts_per_tok": 2}
_LOCAL = {**_HEADS, "num_local_experts": 6}
_SMALL = {**_HEADS, "moe_intermediate_size": 16, "num_experts": 6}
_GROUPS = {
    **_HEADS,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
}
_LATENT = {
    **_GROUPS,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
}

EXPERT_TABLE: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("Mixtral", "mixtral", "experts", {**_LOCAL, "sliding_window": None}),
    (
        "Qwen2-MoE",
        "qwen2_moe",
        "experts, a gated shared one, a dense layer",
        {**_SMALL, "shared_expert_intermediate_size": 20, "mlp_only_layers": [1]},
    ),
    ("Qwen3-MoE", "qwen3_moe", "experts, wide heads", {**_SMALL, "head_dim": 12, "norm_topk_prob": True}),
    ("OLMoE", "olmoe", "experts, query/key norms", _SMALL),
    ("FlexOlmo", "flex_olmo", "experts behind post-norms", _SMALL),
    ("Phi-3.5-MoE", "phimoe", "experts, LayerNorm", _LOCAL),
    (
        "GPT-OSS",
        "gpt_oss",
        "experts with biases, attention sinks, sliding window",
        {**_LOCAL, **LAYERS_IN_TURN, "head_dim": 12, "sliding_window": 4},
    ),
    ("Granite-MoE", "granitemoe", "experts, multipliers", {**_LOCAL, **GRANITE}),
    ("Granite-MoE SWA", "granitemoe_swa", "experts, attention sinks", {**_LOCAL, **GRANITE}),
    (
        "DeepSeek-V2",
        "deepseek_v2",
        "latent attention, experts in groups, shared ones, a dense layer",
        {**_LATENT, "topk_method": "group_limited_greedy"},
    ),
    (
        "DeepSeek-V3",
        "deepseek_v3",
        "latent attention, experts in groups, shared ones, a dense layer",
        _LATENT,
    ),
    ("GLM-4.5", "glm4_moe", "experts, shared ones, a dense layer", {**_GROUPS, "head_dim": 8}),
    ("GLM-4.7 Flash", "glm4_moe_lite", "latent attention, experts, shared ones", _LATENT),
    ("dots.llm1", "dots1", "experts, shared ones, a dense layer", _GROUPS),
    (
        "ERNIE 4.5 MoE",
        "ernie4_5_moe",
        "experts, a shared one, a dense layer",
        {**_SMALL, "moe_num_experts": 6, "moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_start_index": 1},
    ),
    ("Hunyuan MoE", "hunyuan_v1_moe", "experts, a shared one", {**_SMALL, "moe_topk": 2, "head_dim": 8}),
    ("MiniMax-M2", "minimax_m2", "experts, partial rotation", {**_LOCAL, "head_dim": 8, "rotary_dim": 4}),
    ("Solar Open", "solar_open", "experts, a shared one", {**_SMALL, "n_routed_experts": 6}),
    ("EXAONE MoE", "exaone_moe", "experts, a shared one, a dense layer", _SMALL),
    ("Cohere 2 MoE", "cohere2_moe", "parallel blocks, experts", _SMALL),
)
