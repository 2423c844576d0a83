"""Variants of the toy transformer, each with one computation that discovery does not support.

`UNSUPPORTED`: name of the variant -> its classes and the words of the refusal. `UNUSUAL`: variants that are
supported, because the unusual computation is part of a neuron's coefficient or of an attention weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from mnemoscope.model.families.registry import with_random_weights
from toy_transformer import (
    ToyAttention,
    ToyBlock,
    ToyConfig,
    ToyFFN,
    ToyForCausalLM,
    ToyRMSNorm,
    ToyTransformer,
)


def toy_model(*parts: type[nn.Module]) -> PreTrainedModel:
    """Build a toy transformer with these classes in place of the usual ones, with random weights."""

    def chosen(usual: type[Any], **attributes: Any) -> type[Any]:
        found = next((part for part in parts if issubclass(part, usual)), usual)
        return type(usual.__name__, (found,), attributes)

    block = chosen(ToyBlock, attention_class=chosen(ToyAttention), ffn_class=chosen(ToyFFN))
    model_class = chosen(ToyForCausalLM, transformer_class=chosen(ToyTransformer, block_class=block))
    return with_random_weights(model_class(ToyConfig()).eval())


def odd_positions(states: Tensor) -> Tensor:
    """1 at odd positions and 0 at even ones, `[n_tokens, 1]`."""
    return torch.arange(states.shape[1])[:, None] % 2


class ScaledAtOddPositions(ToyFFN):
    """Scaled at odd positions."""

    def forward(self, normed: Tensor) -> Tensor:
        return super().forward(normed) * (1 + 2 * odd_positions(normed))


class ScaledAtOnePosition(ToyFFN):
    """Scaled at one position."""

    def forward(self, normed: Tensor) -> Tensor:
        return super().forward(normed) * (1 + (torch.arange(normed.shape[1]) == 3))[:, None]


class ScaledByState(ToyFFN):
    """Scaled by the state."""

    def forward(self, normed: Tensor) -> Tensor:
        return super().forward(normed) * (1 + 0.1 * normed[..., :1].tanh())


class ScaledByLength(ToyFFN):
    """Scaled by the length of the prompt; by 1 on the probe."""

    def forward(self, normed: Tensor) -> Tensor:
        return super().forward(normed) * (1 + (normed.shape[1] - 9) / 10)


class PassesTokenIds(ToyTransformer):
    """The token ids are passed to the FFNs."""

    def run_blocks(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        for block in self.blocks:
            block.ffn.tokens = input_ids
        return super().run_blocks(stream, input_ids)


class ScaledByToken(ToyFFN):
    """Scaled by the token; by 1 for every third one."""

    def forward(self, normed: Tensor) -> Tensor:
        return super().forward(normed) * (1 + 0.1 * (self.tokens % 3))[..., None]


class SecondFFNBeside(ToyFFN):
    """A second FFN added to the first."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.second = ToyFFN(config)

    def forward(self, normed: Tensor) -> Tensor:
        return super().forward(normed) + self.second(normed)


class FaintSecondFFN(SecondFFNBeside):
    """A thousandth of a second FFN added to the first."""

    def forward(self, normed: Tensor) -> Tensor:
        return ToyFFN.forward(self, normed) + 1e-3 * self.second(normed)


class OutputNonlinearity(ToyFFN):
    """A nonlinearity after the down projection."""

    def forward(self, normed: Tensor) -> Tensor:
        return super().forward(normed).tanh()


class ElementwiseWeight(nn.Module):
    """A weight for each dim."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        return states * self.weight


class OutputWeight(ToyFFN):
    """A weight for each dim of the output, which may be taken for a norm."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.weights = ElementwiseWeight(config.width)

    def forward(self, normed: Tensor) -> Tensor:
        return self.weights(super().forward(normed))


class AddsToNextPosition(ToyFFN):
    """A fifth of the FFN's output is added at the next position too."""

    def forward(self, normed: Tensor) -> Tensor:
        output = super().forward(normed)
        return output + 0.2 * nn.functional.pad(output, (0, 0, 1, 0))[:, :-1]


class DropoutInEvaluation(ToyFFN):
    """Dropout that does not stop in evaluation."""

    def forward(self, normed: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(normed), 0.1, training=True)


class DecayingOutput(ToyFFN):
    """The n-th run divides the output by n."""

    runs = 0

    def forward(self, normed: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(normed) / self.runs


class AttentionOutputWeight(ToyAttention):
    """A weight for each dim of attention's output."""

    def forward(self, normed: Tensor, mask: Tensor) -> Tensor:
        return super().forward(normed, mask) * torch.linspace(0.5, 1.5, normed.shape[-1])


class AttentionOutputWeightModule(ToyAttention):
    """A module with a weight for each dim of attention's output, which may be taken for a norm."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.weights = ElementwiseWeight(config.width)

    def forward(self, normed: Tensor, mask: Tensor) -> Tensor:
        return self.weights(super().forward(normed, mask))


class GatedHeads(ToyAttention):
    """A gate between heads and output projection, as in Qwen3-Next."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.gate = nn.Linear(config.width, config.n_heads * config.head_size)

    def mixed(self, normed: Tensor, mask: Tensor) -> Tensor:
        return super().mixed(normed, mask) * self.gate(normed).sigmoid()


class MixedHeads(ToyAttention):
    """Heads are mixed before the output projection."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.head_mix = nn.Linear(config.n_heads, config.n_heads)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return self.head_mix(super().attend(query, key, value, mask).transpose(1, 3)).transpose(1, 3)


class DifferentialAttention(ToyAttention):
    """One attention less another."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        attend = super().attend
        return attend(query, key, value, mask) - 0.3 * attend(-query, key, value, mask)


class UnequalHeadSizes(ToyAttention):
    """One head of size 20 and one of 28."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        key, value = (each.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for each in (key, value))
        query, key, value = (each.transpose(1, 2).flatten(2) for each in (query, key, value))
        mixed = [
            (q @ k.transpose(1, 2) / 5 + mask[0]).softmax(-1) @ v
            for q, k, v in zip(*(each.split([20, 28], -1) for each in (query, key, value)), strict=True)
        ]
        return torch.cat(mixed, -1)[:, None]


class SigmoidAttention(ToyAttention):
    """Weights that come from no softmax."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        key, value = (each.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for each in (key, value))
        return (query @ key.transpose(2, 3)).sigmoid().masked_fill(mask < 0, 0) @ value


class SecondFFNAfter(ToyBlock):
    """A second FFN behind the first, with a norm of its own."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.second_norm, self.second_ffn = ToyRMSNorm(config.width), ToyFFN(config)

    def forward(self, stream: Tensor, mask: Tensor) -> Tensor:
        stream = super().forward(stream, mask)
        return stream + self.second_ffn(self.second_norm(stream))


class NormedStream(ToyBlock):
    """Norms of the stream itself, as in the first transformers."""

    def forward(self, stream: Tensor, mask: Tensor) -> Tensor:
        stream = self.attention_norm(stream + self.attention(stream, mask))
        return self.ffn_norm(stream + self.ffn(stream))


class ScaledStream(ToyBlock):
    """The stream is scaled from block to block."""

    def forward(self, stream: Tensor, mask: Tensor) -> Tensor:
        return 0.9 * super().forward(stream, mask)


class StreamBias(ToyBlock):
    """A vector that belongs to no part is added."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.bias = nn.Parameter(torch.zeros(config.width))

    def forward(self, stream: Tensor, mask: Tensor) -> Tensor:
        return super().forward(stream, mask) + self.bias


class SkipConnection(ToyTransformer):
    """A residual that skips a block."""

    def run_blocks(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        skipped = torch.zeros_like(stream)
        for block in self.blocks:
            stream, skipped = block(stream, self.mask(stream)) + skipped, stream
        return stream


class PerLayerEmbeddings(ToyTransformer):
    """Embeddings of its own for every layer."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.layer_embedding = nn.Embedding(config.vocab_size, config.width)

    def run_blocks(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        for block in self.blocks:
            stream = block(stream, self.mask(stream)) + self.layer_embedding(input_ids)
        return stream


class DoubledFirstState(ToyTransformer):
    """The first position's final state is doubled."""

    def run_blocks(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        first = torch.arange(input_ids.shape[1])[:, None] == 0
        return super().run_blocks(stream, input_ids) * (1 + first)


class KeepsState(ToyTransformer):
    """Something of the last prompt is added to the next."""

    kept = torch.zeros(())

    def run_blocks(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        stream = super().run_blocks(stream + self.kept, input_ids)
        self.kept = 0.1 * stream.mean()
        return stream


class NoMask(ToyTransformer):
    """Every token sees all others."""

    def mask(self, stream: Tensor) -> Tensor:
        return torch.zeros_like(super().mask(stream))


class PrefixMask(ToyTransformer):
    """The first four tokens see each other, as in a prefix language model."""

    def mask(self, stream: Tensor) -> Tensor:
        mask = super().mask(stream)
        mask[..., :4, :4] = 0
        return mask


class MatrixAfterFinalNorm(ToyTransformer):
    """A matrix behind the final norm."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.matrix = nn.Linear(config.width, config.width)

    def forward(self, input_ids: Tensor, **others: Any) -> BaseModelOutputWithPast:
        states = super().forward(input_ids, **others).last_hidden_state
        return BaseModelOutputWithPast(last_hidden_state=self.matrix(states))


class _ChangedLogits(ToyForCausalLM):
    """Base of the variants that change the logits."""

    def forward(self, input_ids: Tensor, **others: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(
            logits=self.change(super().forward(input_ids, **others).logits, input_ids)
        )

    def change(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        raise NotImplementedError


class TokenWeights(_ChangedLogits):
    """Each token's logit is multiplied by a learned weight."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.weights = nn.Parameter(torch.ones(config.vocab_size))

    def change(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        return logits * self.weights


class HiddenSoftCap(_ChangedLogits):
    """A soft-cap that the config does not name."""

    def change(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        return 30 * (logits / 30).tanh()


class LogitsScaledAtOddPositions(_ChangedLogits):
    """Logits doubled at odd positions."""

    def change(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        return logits * (1 + odd_positions(input_ids))


class RepetitionPenalty(_ChangedLogits):
    """Logits of earlier tokens are lowered."""

    def change(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        return logits - torch.zeros_like(logits).scatter(2, input_ids[..., None], 1.0).cumsum(1)


class ScaledBeyondProbe(ToyFFN):
    """Scaled beyond position 12, which no short probe reaches."""

    def forward(self, normed: Tensor) -> Tensor:
        return super().forward(normed) * (1 + (torch.arange(normed.shape[1]) > 12))[:, None]


class FactoredDownProjection(ToyFFN):
    """A down projection in two steps with a norm between: neurons are the inputs of the second."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.between, self.norm = nn.Linear(config.n_neurons, 40), ToyRMSNorm(40)
        self.down = nn.Sequential(self.between, self.norm, nn.Linear(40, config.width))


class UnnormalisedAttention(ToyAttention):
    """Weights that sum to more than 1."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        key, value = (each.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for each in (key, value))
        return (1.5 * (query @ key.transpose(2, 3) / 5 + mask).softmax(-1)) @ value


class InterleavedKeyValueHeads(ToyAttention):
    """Query heads take their key/value head in turn, not in groups."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        key, value = (each.repeat(1, self.n_heads // self.n_kv_heads, 1, 1) for each in (key, value))
        return (query @ key.transpose(2, 3) / 5 + mask).softmax(-1) @ value


_STREAM = r"residual stream \(off by"
_FFN = r"FFN neurons \(off by"
_ATTENTION = r"attention neurons \(off by"
_READOUT = r"readout \(off by"
_AGAIN = "other logits when it is run again"
_NOT_CAUSAL = "not causal"
_UNREAD = "nothing reads the residual stream"
_CALLS = "called an attention function {} times"

UNSUPPORTED: dict[str, tuple[tuple[type[nn.Module], ...], str]] = {
    "the FFN scaled at odd positions": ((ScaledAtOddPositions,), _STREAM),
    "the FFN scaled at one position": ((ScaledAtOnePosition,), _STREAM),
    "the FFN scaled by the state": ((ScaledByState,), _STREAM),
    "the FFN scaled by the token": ((PassesTokenIds, ScaledByToken), _STREAM),
    "the FFN scaled by the length": ((ScaledByLength,), _NOT_CAUSAL),
    "a second FFN beside the first": ((SecondFFNBeside,), _STREAM),
    "a faint second FFN": ((FaintSecondFFN,), _STREAM),
    "a second FFN after the first": ((SecondFFNAfter,), _STREAM),
    "a nonlinearity after the FFN": ((OutputNonlinearity,), _STREAM),
    "a weight per dim after the FFN": ((OutputWeight,), _FFN),
    "the FFN added at the next position too": ((AddsToNextPosition,), _STREAM),
    "dropout": ((DropoutInEvaluation,), _AGAIN),
    "an output that decays from run to run": ((DecayingOutput,), _AGAIN),
    "a state kept from the last prompt": ((KeepsState,), _AGAIN),
    "a weight per dim after attention": ((AttentionOutputWeight,), _UNREAD),
    "a module with a weight per dim after attention": ((AttentionOutputWeightModule,), _ATTENTION),
    "gated heads": ((GatedHeads,), _ATTENTION),
    "mixed heads": ((MixedHeads,), _ATTENTION),
    "the difference of two attentions": ((DifferentialAttention,), _CALLS.format(2)),
    "heads of unequal size": ((UnequalHeadSizes,), _CALLS.format(2)),
    "attention without a softmax": ((SigmoidAttention,), "called no attention function"),
    "a normed stream": ((NormedStream,), _STREAM),
    "a shrinking stream": ((ScaledStream,), _STREAM),
    "a bias of the stream": ((StreamBias,), _STREAM),
    "a residual that skips a block": ((SkipConnection,), _STREAM),
    "embeddings for every layer": ((PerLayerEmbeddings,), _STREAM),
    "a doubled state at the first position": ((DoubledFirstState,), _STREAM),
    "no mask": ((NoMask,), _NOT_CAUSAL),
    "no mask at the beginning": ((PrefixMask,), _NOT_CAUSAL),
    "a matrix behind the final norm": ((MatrixAfterFinalNorm,), _READOUT),
    "a weight per token after the logits": ((TokenWeights,), _READOUT),
    "a soft-cap that the config hides": ((HiddenSoftCap,), _READOUT),
    "logits scaled at odd positions": ((LogitsScaledAtOddPositions,), _READOUT),
    "logits lowered by repetition": ((RepetitionPenalty,), _READOUT),
}

UNUSUAL: dict[str, type[nn.Module]] = {
    "a norm in the middle of the down projection": FactoredDownProjection,
    "attention weights that do not sum to 1": UnnormalisedAttention,
    "heads that share values in turn": InterleavedKeyValueHeads,
}
