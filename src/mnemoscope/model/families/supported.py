"""Configurations of the supported families that the tests validate: dense ones, then mixtures of experts.

The settings make the tiny model show the peculiarity of its family: heads wider than `d_model / n_heads`, a
window shorter than the probe, multipliers other than 1, low soft-caps.

The tiny models have more experts than a token is routed to, and experts of another size than dense layers.
"""

from __future__ import annotations

from typing import Any

TOKENS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_FALCON = {
    **TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
HEADS = {**_FALCON, "intermediate_size": 48}
GROUPED = {**HEADS, "num_key_value_heads": 2}
_WIDE = {**GROUPED, "head_dim": 12}
_WINDOW = {**GROUPED, "sliding_window": 4}
LAYERS_IN_TURN = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_WINDOW_IN_TURN = {**_WINDOW, **LAYERS_IN_TURN}
_WIDE_IN_TURN = {**_WIDE, **_WINDOW_IN_TURN}
_GEMMA = {**_WIDE_IN_TURN, "query_pre_attn_scalar": 12}
GRANITE = {
    "attention_multiplier": 0.3,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 3.0,
}
# Small enough for a tiny model to show them: trained ones have 50 and 30.
_SOFT_CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
_OPT = {**_FALCON, "word_embed_proj_dim": 32, "ffn_dim": 48}
_GPT2 = {**TOKENS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
_GPT_J = {**_GPT2, "rotary_dim": 4}
_GPT_NEO = {
    **TOKENS,
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "attention_types": [[["global", "local", "global"], 1]],
    "window_size": 4,
}
_XGLM = {
    **TOKENS,
    "d_model": 32,
    "ffn_dim": 48,
    "num_layers": 3,
    "attention_heads": 4,
    "max_position_embeddings": 64,
}
_BIASES = {"attention_bias": True, "mlp_bias": True}

TABLE: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("BitNet", "bitnet", "norms before both projections", GROUPED),
    ("GPT-2", "gpt2", "tied head", _GPT2),
    ("GPT-2", "gpt2", "untied head", {**_GPT2, "tie_word_embeddings": False}),
    ("GPT-BigCode", "gpt_bigcode", "one key/value head", {**_GPT2, "n_inner": 48}),
    ("GPT-NeoX", "gpt_neox", "parallel blocks", {**HEADS, "use_parallel_residual": True}),
    ("GPT-NeoX", "gpt_neox", "sequential blocks", {**HEADS, "use_parallel_residual": False}),
    ("OPT", "opt", "tokens in one row, ReLU", _OPT),
    ("BioGPT", "biogpt", "scaled embeddings, tied head", HEADS),
    ("Llama", "llama", "grouped heads", GROUPED),
    (
        "Llama",
        "llama",
        "all heads, biases, tied head",
        {**HEADS, "num_key_value_heads": 4, **_BIASES, "tie_word_embeddings": True},
    ),
    ("Llama", "llama", "one key/value head", {**GROUPED, "num_key_value_heads": 1}),
    ("CWM", "cwm", "sliding window in two layers, wide heads", _WIDE_IN_TURN),
    ("Mistral", "mistral", "sliding window", _WINDOW),
    ("Ministral", "ministral", "sliding window in two layers", _WIDE_IN_TURN),
    ("Ministral 3", "ministral3", "wide heads, scaled queries", _WIDE),
    ("Qwen2", "qwen2", "query/key/value biases", GROUPED),
    ("Qwen3", "qwen3", "query/key norms, wide heads", _WIDE),
    ("Phi 1/2", "phi", "parallel blocks, biases, partial rotation", GROUPED),
    (
        "Phi-3",
        "phi3",
        "fused projections, sliding window",
        {**_WINDOW, "original_max_position_embeddings": 64},
    ),
    ("Gemma", "gemma", "one key/value head, wide heads", {**_WIDE, "num_key_value_heads": 1}),
    ("Gemma 2", "gemma2", "soft-caps of scores and logits, pre- and post-norms", {**_GEMMA, **_SOFT_CAPS}),
    ("VaultGemma", "vaultgemma", "soft-caps of scores and logits", {**_GEMMA, **_SOFT_CAPS}),
    ("Gemma 3", "gemma3_text", "pre- and post-norms, sliding window", _GEMMA),
    ("OLMo", "olmo", "norms without weights", GROUPED),
    ("OLMo 2", "olmo2", "post-norms alone", GROUPED),
    ("OLMo 3", "olmo3", "post-norms alone, sliding window", _WINDOW_IN_TURN),
    ("Granite", "granite", "multipliers of stream and logits", {**GROUPED, **GRANITE}),
    ("Granite", "granite", "multipliers, biases", {**GROUPED, **GRANITE, **_BIASES}),
    ("Cohere", "cohere", "parallel blocks, scaled logits, query/key norms", {**GROUPED, "use_qk_norm": True}),
    (
        "Cohere 2",
        "cohere2",
        "parallel blocks, scaled logits, sliding window",
        {**_WIDE_IN_TURN, "logit_scale": 0.25},
    ),
    ("StableLM", "stablelm", "biases, partial rotation", {**GROUPED, "use_qkv_bias": True}),
    (
        "StableLM",
        "stablelm",
        "parallel blocks, query/key norms",
        {**GROUPED, "use_parallel_residual": True, "qk_layernorm": True},
    ),
    ("SmolLM3", "smollm3", "a layer without rotation", {**GROUPED, "no_rope_layers": [1, 0, 1]}),
    ("StarCoder2", "starcoder2", "biases, sliding window, tied head", _WINDOW),
    ("GLM", "glm", "fused gate, partial rotation", _WIDE),
    ("GLM-4", "glm4", "pre- and post-norms, fused gate", _WIDE),
    ("Nemotron", "nemotron", "squared ReLU, norms that store gamma - 1", GROUPED),
    ("EXAONE 4", "exaone4", "post-norms alone, sliding window", _WINDOW_IN_TURN),
    ("Persimmon", "persimmon", "fused heads, squared ReLU, biases", HEADS),
    ("ERNIE 4.5", "ernie4_5", "wide heads, biases", {**_WIDE, "use_bias": True}),
    ("Hunyuan", "hunyuan_v1_dense", "query/key norms, wide heads", _WIDE),
    (
        "Granite SWA",
        "granite_swa",
        "attention sinks, sliding window in two layers, multipliers",
        {**_WINDOW_IN_TURN, **GRANITE},
    ),
    ("HyperCLOVA X", "hyperclovax", "multipliers of stream and logits", {**_WIDE, **GRANITE}),
    ("Seed-OSS", "seed_oss", "query/key/value biases, wide heads", _WIDE),
    ("Apertus", "apertus", "learned activation", GROUPED),
    ("Arcee", "arcee", "squared ReLU", GROUPED),
    ("Helium", "helium", "grouped heads, interleaved rotation", {**GROUPED, "head_dim": 8}),
    ("Jais 2", "jais2", "LayerNorm, squared ReLU, biases", GROUPED),
    (
        "NanoChat",
        "nanochat",
        "norms without weights, soft-cap of logits",
        {**GROUPED, "final_logit_softcapping": 5.0},
    ),
    (
        "NanoChat",
        "nanochat",
        "norms without weights, no soft-cap",
        {**GROUPED, "final_logit_softcapping": None},
    ),
    # From here on the families compute attention in code of their own.
    ("GPT-J", "gptj", "parallel blocks", _GPT_J),
    ("CodeGen", "codegen", "parallel blocks, fused query/key/value", {**_GPT_J, "n_ctx": 64}),
    ("GPT-Neo", "gpt_neo", "local attention windows, unscaled scores", _GPT_NEO),
    (
        "BLOOM",
        "bloom",
        "ALiBi, interleaved query/key/value",
        {**TOKENS, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    ),
    (
        "MPT",
        "mpt",
        "ALiBi, no biases",
        {**TOKENS, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},
    ),
    (
        "Falcon",
        "falcon",
        "ALiBi, sequential blocks, biases",
        {**_FALCON, "alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
    ),
    (
        "Falcon",
        "falcon",
        "one key/value head, parallel blocks",
        {**_FALCON, "alibi": False, "parallel_attn": True, "multi_query": True, "bias": False},
    ),
    (
        "Falcon",
        "falcon",
        "grouped heads, two norms",
        {**_FALCON, "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    ("XGLM", "xglm", "scaled queries, tied head", _XGLM),
)


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
