"""Tiny models with a tokenizer of numbered words, for the tests."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import mnemoscope as ms
from mnemoscope.model.families import Family
from mnemoscope.testing import N_WORDS, word_tokenizer, words

__all__ = ["N_WORDS", "family_id", "open_tiny", "parallel_model", "word_tokenizer", "words"]


def family_id(family: Family) -> str:
    """Name of a family in test ids."""
    return f"{family.model_type}-{family.variant.replace(' ', '_')}"


def parallel_model() -> PreTrainedModel:
    """A tiny random GPT-NeoX, whose attention and FFN read the same state."""
    config = AutoConfig.for_model(
        "gpt_neox",
        vocab_size=N_WORDS,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        use_parallel_residual=True,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def open_tiny(model: PreTrainedModel) -> ms.Model:
    """A tiny model with the word tokenizer."""
    return ms.load((model, word_tokenizer(model.get_input_embeddings().weight.shape[0])))
