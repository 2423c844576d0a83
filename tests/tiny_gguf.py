"""Tiny GGUF files with random weights, as llama.cpp would write them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from transformers.convert_slow_tokenizer import bytes_to_unicode

WIDTH, HIDDEN, N_LAYERS, N_HEADS, N_KEY_HEADS = 64, 96, 2, 4, 2
MERGES = ["Ġ t", "h e", "Ġt he", "1 2", "12 3"]
SPECIAL = ["<|start|>", "<|end|>"]
TOKENS = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES), *SPECIAL]
TEMPLATE = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}"


def write_gguf(
    path: Path,
    architecture: str = "llama",
    *,
    pre: str = "smollm",
    seed: int = 0,
    width: int = WIDTH,
    without: str = "",
) -> Path:
    """Write a tiny Llama, Qwen2 or Gemma 3 in Q8_0, Q4_0 and F32.

    Args:
        path: the file.
        architecture: `"llama"`, `"qwen2"` or `"gemma3"`.
        pre: name of the pre-tokenizer.
        seed: of the weights.
        width: of the residual stream, a multiple of 64.
        without: a tensor that is left out.
    """
    writer = gguf.GGUFWriter(path, architecture)
    head = width // N_HEADS
    writer.add_name("tiny")
    writer.add_block_count(N_LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KEY_HEADS)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(len(TOKENS))
    if architecture == "gemma3":
        writer.add_sliding_window(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 2) + [3, 3])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(len(TOKENS) - 2)
    writer.add_eos_token_id(len(TOKENS) - 1)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(seed)
    for name, shape in _shapes(architecture, width).items():
        if name == without:
            continue
        weights = (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1 + weights if name.endswith("norm.weight") else weights)
            continue
        kind = Kind.Q4_0 if "ffn" in name else Kind.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(architecture: str, width: int) -> dict[str, tuple[int, ...]]:
    keys = width // N_HEADS * N_KEY_HEADS
    block: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (width,),
        "attn_q.weight": (width, width),
        "attn_k.weight": (keys, width),
        "attn_v.weight": (keys, width),
        "attn_output.weight": (width, width),
        "ffn_norm.weight": (width,),
        "ffn_gate.weight": (HIDDEN, width),
        "ffn_up.weight": (HIDDEN, width),
        "ffn_down.weight": (width, HIDDEN),
    }
    if architecture == "qwen2":
        block |= {"attn_q.bias": (width,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if architecture == "gemma3":
        head = width // N_HEADS
        block |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
        block |= {"post_attention_norm.weight": (width,), "post_ffw_norm.weight": (width,)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), width)}
    for layer in range(N_LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    shapes["output_norm.weight"] = (width,)
    if architecture == "qwen2":
        shapes["output.weight"] = (len(TOKENS), width)
    return shapes
