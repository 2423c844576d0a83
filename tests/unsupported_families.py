"""Families that are refused, with the reason and the settings of a tiny model for the tests."""

from __future__ import annotations

from typing import Any, NamedTuple

from mnemoscope.model.families.supported import GROUPED, HEADS, LAYERS_IN_TURN, TOKENS

_EXPERTS = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_STATES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


class Unsupported(NamedTuple):
    """Refused family.

    Attributes:
        name: usual name.
        model_type: its name in a transformers config.
        why: the computation that neurons cannot be summed to, or that discovery does not find.
        config: settings of a tiny model.
    """

    name: str
    model_type: str
    why: str
    config: dict[str, Any]


_NO_ATTENTION = "has no attention, so nothing in it is a head"
_SOME_WITHOUT = "has layers without attention heads"

_TABLE: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    (
        "AFMoE",
        "afmoe",
        "a gate multiplies what the heads give before their projection",
        {**_EXPERTS, "num_dense_layers": 1, "global_attn_every_n_layers": 2, "head_dim": 8},
    ),
    ("BERT", "bert", "is an encoder, which does not predict the next token", HEADS),
    ("DiffLlama", "diffllama", "subtracts one attention from another in every head", GROUPED),
    (
        "Doge",
        "doge",
        "multiplies the stream itself by a learned vector in every layer",
        {**GROUPED, "num_experts": 4},
    ),
    (
        "Falcon-H1",
        "falcon_h1",
        "a state-space layer beside attention adds to the stream too",
        {**GROUPED, "mamba_d_ssm": 32, "mamba_n_groups": 1, **_MAMBA, "mamba_d_head": 8},
    ),
    (
        "Gemma 3n",
        "gemma3n_text",
        "keeps several streams, and adds embeddings in every layer",
        {
            **GROUPED,
            "head_dim": 8,
            "num_kv_shared_layers": 0,
            **LAYERS_IN_TURN,
            "vocab_size_per_layer_input": 97,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0] * 3,
        },
    ),
    (
        "Gemma 4",
        "gemma4_text",
        "has heads of other sizes from layer to layer",
        {**GROUPED, "vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8},
    ),
    (
        "GPT-1",
        "openai-gpt",
        "has no norm before the head",
        {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    (
        "GPT-NeoX Japanese",
        "gpt_neox_japanese",
        "its last layer adds a bias that is no part of a projection",
        HEADS,
    ),
    (
        "Granite 4 (hybrid)",
        "granitemoehybrid",
        _SOME_WITHOUT,
        {
            **GROUPED,
            **_MAMBA,
            "layer_types": ["mamba", "attention", "mamba"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 24,
        },
    ),
    ("Bamba", "bamba", _SOME_WITHOUT, {**GROUPED, **_MAMBA, "attn_layer_indices": [1]}),
    (
        "Jamba",
        "jamba",
        _SOME_WITHOUT,
        {
            **GROUPED,
            "num_experts": 4,
            "mamba_d_state": 4,
            "use_mamba_kernels": False,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
        },
    ),
    (
        "JetMoE",
        "jetmoe",
        "keeps the projections of its heads and FFNs in experts of its own code",
        {
            **TOKENS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "kv_channels": 8,
            "intermediate_size": 24,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 64,
        },
    ),
    (
        "LFM2",
        "lfm2",
        "has layers of convolution instead of attention",
        {**GROUPED, "layer_types": ["conv", "full_attention", "conv"]},
    ),
    (
        "Llama 4",
        "llama4_text",
        "its experts run in code of its own, which weighs what they read instead of what they write",
        {**GROUPED, "head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 48},
    ),
    ("Mamba", "mamba", _NO_ATTENTION, {**_STATES, "state_size": 4}),
    (
        "Mamba 2",
        "mamba2",
        _NO_ATTENTION,
        {**_STATES, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1},
    ),
    ("MiniMax", "minimax", "has layers of linear attention, whose weights are never made", GROUPED),
    (
        "ModernBERT decoder",
        "modernbert-decoder",
        "has a layer of its own between the final norm and the vocabulary",
        {**HEADS, "cls_token_id": 1, "sep_token_id": 2},
    ),
    ("Nemotron-H", "nemotron_h", _SOME_WITHOUT, GROUPED),
    (
        "Qwen3-Next",
        "qwen3_next",
        "has layers of linear attention, and gates what the heads give",
        {**_EXPERTS, **_LINEAR, "head_dim": 8, "shared_expert_intermediate_size": 12},
    ),
    (
        "RecurrentGemma",
        "recurrent_gemma",
        "has recurrent layers",
        {**GROUPED, "lru_width": 32, "attention_window_size": 8},
    ),
    ("RWKV", "rwkv", "is recurrent and " + _NO_ATTENTION, {**_STATES, "attention_hidden_size": 32}),
    (
        "T5",
        "t5",
        "is an encoder with a decoder",
        {"vocab_size": 97, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8},
    ),
    ("xLSTM", "xlstm", "is recurrent and " + _NO_ATTENTION, {**_STATES, "num_heads": 4}),
    (
        "Zamba 2",
        "zamba2",
        _SOME_WITHOUT,
        {**GROUPED, "num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid"] * 3, "mamba_d_state": 8},
    ),
)
UNSUPPORTED = tuple(Unsupported(*row) for row in _TABLE)
