"""A language of numbered words, and untrained models of two architectures with named views of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from mnemoscope.errors import OptionError

N_WORDS = 97
SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2}
MOST_FILLERS = 4  # before a subject, and between it and the relation; at least one


@dataclass(frozen=True)
class Fact:
    """A fact: a prompt of fillers, the subject among them and the relation last; and its answer, spaced."""

    prompt: str
    target: str


def word_tokenizer(n_words: int = N_WORDS) -> PreTrainedTokenizerBase:
    """Make a tokenizer whose words are `w3`, `w4`, ...; a word's id is its number."""
    vocabulary = {**SPECIAL, **{f"w{i}": i for i in range(len(SPECIAL), n_words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<pad>", eos_token="</s>"
    )


def words(*ids: int) -> str:
    """Join words into a prompt, by id."""
    return " ".join(f"w{i}" for i in ids)


def shuffled_words(generator: torch.Generator) -> Tensor:
    """Return the ids of all words but the special ones, in random order."""
    return torch.randperm(N_WORDS - len(SPECIAL), generator=generator) + len(SPECIAL)


def draw_prompts(
    subjects: Tensor, relations: Tensor, fillers: Tensor, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Draw prompts of one random length for subjects and relations, token ids `[n_prompts]` each.

    Returns:
        Token ids `[n_prompts, n_tokens]` with random `fillers`, and the subject's position.
    """
    before, after = (torch.randint(MOST_FILLERS, (2,), generator=generator) + 1).tolist()
    shape = (len(subjects), before + 1 + after + 1)
    tokens = fillers[torch.randint(len(fillers), shape, generator=generator)]
    tokens[:, before] = subjects
    tokens[:, -1] = relations
    return tokens, before


Architecture = Literal["gpt2", "llama"]

N_LAYERS = 4
N_HEADS = 4
D_HEAD = 24
D_MODEL = N_HEADS * D_HEAD
D_FF = 96
N_POSITIONS = 64
TOKENS: dict[str, Any] = {"vocab_size": N_WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
NO_DROPOUT: dict[str, Any] = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}


@dataclass(frozen=True, eq=False)
class Weights:
    """Views of a model's matrices, through which they can be written.

    Rows are subkeys of matrices that read the residual stream, and directions of those that write to it.

    Attributes:
        embeddings, unembedding: `[n_words, d_model]`.
        query, key, value, output: by layer, `[n_heads, d_head, d_model]`.
        gates, directions: by layer, subkey and output direction of each FFN neuron, `[d_ff, d_model]`.
        ups: by layer, subkey of the factor of the activation; none in GPT-2, whose FFN is not gated.
    """

    embeddings: Tensor
    unembedding: Tensor
    query: tuple[Tensor, ...]
    key: tuple[Tensor, ...]
    value: tuple[Tensor, ...]
    output: tuple[Tensor, ...]
    gates: tuple[Tensor, ...]
    ups: tuple[Tensor, ...]
    directions: tuple[Tensor, ...]


def noisy_model(
    architecture: Architecture, noise: float, generator: torch.Generator
) -> tuple[PreTrainedModel, Weights]:
    """Make a model whose weights, biases and norms are random with standard deviation `noise`.

    Raises:
        OptionError: the architecture is neither `"gpt2"` nor `"llama"`.
    """
    if architecture not in ("gpt2", "llama"):
        raise OptionError(f"architecture is {architecture!r}; give 'gpt2' or 'llama'")
    model = drawn_anew(_gpt2 if architecture == "gpt2" else _llama, noise, generator)
    return model, _gpt2_weights(model) if architecture == "gpt2" else _llama_weights(model)


def drawn_anew(
    build: Callable[[], PreTrainedModel], noise: float, generator: torch.Generator
) -> PreTrainedModel:
    """Build a model and draw its weights with standard deviation `noise`; scales of norms around 1."""
    with torch.random.fork_rng(devices=[]):  # transformers draws weights too, from the global state
        model = build().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(noise * torch.randn(weight.shape, generator=generator))
            if weight.ndim == 1 and name.endswith("weight"):
                weight.add_(1)
    return model


def _gpt2() -> PreTrainedModel:
    sizes = {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_inner": D_FF}
    further = {"n_positions": N_POSITIONS, "tie_word_embeddings": False}
    return GPT2LMHeadModel(GPT2Config(**sizes, **further, **TOKENS, **NO_DROPOUT))


def _llama() -> PreTrainedModel:
    sizes = {"hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS}
    further: Any = {"max_position_embeddings": N_POSITIONS, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=D_FF, **further, **TOKENS))


def _gpt2_weights(model: Any) -> Weights:
    blocks = model.transformer.h
    # Conv1D is stored transposed; query, key and value lie behind one another in c_attn.
    joint = [block.attn.c_attn.weight.detach().T.chunk(3) for block in blocks]
    query, key, value = zip(*joint, strict=True)
    return Weights(
        embeddings=model.transformer.wte.weight.detach(),
        unembedding=model.lm_head.weight.detach(),
        query=_by_head(query),
        key=_by_head(key),
        value=_by_head(value),
        output=_by_head(block.attn.c_proj.weight.detach() for block in blocks),
        gates=tuple(block.mlp.c_fc.weight.detach().T for block in blocks),
        ups=(),
        directions=tuple(block.mlp.c_proj.weight.detach() for block in blocks),
    )


def _llama_weights(model: Any) -> Weights:
    blocks = model.model.layers
    return Weights(
        embeddings=model.model.embed_tokens.weight.detach(),
        unembedding=model.lm_head.weight.detach(),
        query=_by_head(block.self_attn.q_proj.weight.detach() for block in blocks),
        key=_by_head(block.self_attn.k_proj.weight.detach() for block in blocks),
        value=_by_head(block.self_attn.v_proj.weight.detach() for block in blocks),
        output=_by_head(block.self_attn.o_proj.weight.detach().T for block in blocks),
        gates=tuple(block.mlp.gate_proj.weight.detach() for block in blocks),
        ups=tuple(block.mlp.up_proj.weight.detach() for block in blocks),
        directions=tuple(block.mlp.down_proj.weight.detach().T for block in blocks),
    )


def _by_head(matrices: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Return views `[n_heads, d_head, d_model]` of matrices `[n_heads * d_head, d_model]`."""
    return tuple(matrix.unflatten(0, (N_HEADS, D_HEAD)) for matrix in matrices)
