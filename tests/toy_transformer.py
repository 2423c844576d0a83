"""An architecture outside transformers: grouped heads with code of their own, a gated FFN and an RMSNorm.

No module path is one of transformers' models, so nothing can be found by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from mnemoscope.model.families.registry import Family


class ToyConfig(PreTrainedConfig):
    """Sizes of a toy transformer."""

    model_type = "toy"
    attribute_map = {  # noqa: RUF012 (transformers declares it so)
        "hidden_size": "width",
        "num_hidden_layers": "depth",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "context_length",
    }

    def __init__(
        self,
        vocab_size: int = 97,
        width: int = 32,
        depth: int = 3,
        n_heads: int = 4,
        n_kv_heads: int = 2,
        head_size: int = 12,
        n_neurons: int = 48,
        context_length: int = 64,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.width, self.depth, self.context_length = width, depth, context_length
        self.n_heads, self.n_kv_heads, self.head_size = n_heads, n_kv_heads, head_size
        self.n_neurons = n_neurons
        super().__init__(**{"tie_word_embeddings": False, **others})


class ToyRMSNorm(nn.Module):
    """RMSNorm with an epsilon under another name than transformers'."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = 1e-6

    def forward(self, stream: Tensor) -> Tensor:
        return self.weight * stream * (stream.pow(2).mean(-1, keepdim=True) + self.epsilon).rsqrt()


class ToyAttention(nn.Module):
    """Attention of grouped heads that are wider than `width / n_heads`, with a softmax of its own."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.n_heads, self.n_kv_heads, self.head_size = config.n_heads, config.n_kv_heads, config.head_size
        self.queries = nn.Linear(config.width, config.n_heads * config.head_size)
        self.keys = nn.Linear(config.width, config.n_kv_heads * config.head_size)
        self.values = nn.Linear(config.width, config.n_kv_heads * config.head_size)
        self.output = nn.Linear(config.n_heads * config.head_size, config.width)

    def forward(self, normed: Tensor, mask: Tensor) -> Tensor:
        return self.output(self.mixed(normed, mask))

    def mixed(self, normed: Tensor, mask: Tensor) -> Tensor:
        """Compute the input of the output projection, `[n_prompts, n_tokens, n_heads * head_size]`."""
        query, key, value = (self.by_head(make(normed)) for make in (self.queries, self.keys, self.values))
        return self.attend(query, key, value, mask).transpose(1, 2).flatten(2)

    def by_head(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (-1, self.head_size)).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Weigh the values, `[n_prompts, n_heads, n_tokens, head_size]`."""
        key, value = (each.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for each in (key, value))
        scores = query @ key.transpose(2, 3) * self.head_size**-0.5 + mask
        return scores.softmax(-1) @ value


class ToyFFN(nn.Module):
    """A gated FFN."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.n_neurons)
        self.up = nn.Linear(config.width, config.n_neurons)
        self.down = nn.Linear(config.n_neurons, config.width)

    def forward(self, normed: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(normed)) * self.up(normed))


class ToyBlock(nn.Module):
    """A sequential block."""

    attention_class: type[ToyAttention] = ToyAttention
    ffn_class: type[ToyFFN] = ToyFFN

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = ToyRMSNorm(config.width), ToyRMSNorm(config.width)
        self.attention = self.attention_class(config)
        self.ffn = self.ffn_class(config)

    def forward(self, stream: Tensor, mask: Tensor) -> Tensor:
        stream = stream + self.attention(self.attention_norm(stream), mask)
        return stream + self.ffn(self.ffn_norm(stream))


class ToyPreTrainedModel(PreTrainedModel):
    """Base of the toy transformers."""

    config_class = ToyConfig
    base_model_prefix = "transformer"
    _supports_sdpa = True


class ToyTransformer(ToyPreTrainedModel):
    """Embeddings of tokens and positions, blocks, a final norm."""

    block_class: type[ToyBlock] = ToyBlock

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context_length, config.width)
        self.blocks = nn.ModuleList(self.block_class(config) for _ in range(config.depth))
        self.final_norm = ToyRMSNorm(config.width)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.token_embedding

    def forward(self, input_ids: Tensor, **others: Any) -> BaseModelOutputWithPast:
        stream = self.token_embedding(input_ids) + self.position_embedding(torch.arange(input_ids.shape[1]))
        return BaseModelOutputWithPast(last_hidden_state=self.final_norm(self.run_blocks(stream, input_ids)))

    def run_blocks(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        """Run all blocks."""
        for block in self.blocks:
            stream = block(stream, self.mask(stream))
        return stream

    def mask(self, stream: Tensor) -> Tensor:
        """Return the causal mask that is added to the scores, `[1, 1, n_tokens, n_tokens]`."""
        n_tokens = stream.shape[1]
        hidden = torch.full((1, 1, n_tokens, n_tokens), torch.finfo(stream.dtype).min, dtype=stream.dtype)
        return hidden.triu(1)


class ToyForCausalLM(ToyPreTrainedModel, GenerationMixin):
    """The toy transformer with an unembedding."""

    transformer_class: type[ToyTransformer] = ToyTransformer

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.transformer = self.transformer_class(config)
        self.unembedding = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.unembedding

    def forward(self, input_ids: Tensor, **others: Any) -> CausalLMOutputWithPast:
        states = self.transformer(input_ids, **others).last_hidden_state
        return CausalLMOutputWithPast(logits=self.unembedding(states))


AutoConfig.register("toy", ToyConfig)
AutoModelForCausalLM.register(ToyConfig, ToyForCausalLM)

TOY = Family("Toy", "toy", "attention of its own, wide heads, biases")
