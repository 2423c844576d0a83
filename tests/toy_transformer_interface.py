"""The toy transformer with attention through transformers' interface, parallel blocks and post-norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mnemoscope.model.families.registry import Family
from toy_transformer import ToyAttention, ToyBlock, ToyConfig, ToyForCausalLM, ToyRMSNorm, ToyTransformer


class ToyParallelConfig(ToyConfig):
    """Sizes of a parallel toy transformer."""

    model_type = "toy_parallel"

    def __init__(self, **sizes: Any) -> None:  # without which transformers makes one of its own
        super().__init__(**sizes)


class ToyParallelAttention(ToyAttention):
    """Attention as transformers computes it."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.num_key_value_groups = config.n_heads // config.n_kv_heads

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        attention = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        return attention(self, query, key, value, mask, scaling=self.head_size**-0.5)[0].transpose(1, 2)


class ToyParallelBlock(ToyBlock):
    """A parallel block whose outputs pass norms before they are added, half as large."""

    attention_class = ToyParallelAttention

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.attention_post_norm, self.ffn_post_norm = ToyRMSNorm(config.width), ToyRMSNorm(config.width)

    def forward(self, stream: Tensor, mask: Tensor) -> Tensor:
        mixed = self.attention_post_norm(self.attention(self.attention_norm(stream), mask))
        changed = self.ffn_post_norm(self.ffn(self.ffn_norm(stream)))
        return stream + 0.5 * mixed + 0.5 * changed


class ToyParallelTransformer(ToyTransformer):
    """Embeddings, parallel blocks, a final norm."""

    block_class = ToyParallelBlock


class ToyParallelForCausalLM(ToyForCausalLM):
    """The parallel toy transformer with an unembedding."""

    config_class = ToyParallelConfig
    transformer_class = ToyParallelTransformer


AutoConfig.register("toy_parallel", ToyParallelConfig)
AutoModelForCausalLM.register(ToyParallelConfig, ToyParallelForCausalLM)

TOY_PARALLEL = Family("Parallel toy", "toy_parallel", "parallel blocks, post-norms, multipliers")
