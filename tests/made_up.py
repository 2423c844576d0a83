"""An architecture that nobody has: the usual blocks under names of its own, computing attention itself.

A parrot listens through `ears` (heads; some share a `voice`, as grouped heads share keys and values), thinks
with a gated FFN, and squawks. None of its names are those of transformers' models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from mnemoscope.model.families import Family


class ParrotConfig(PreTrainedConfig):
    """Sizes of a parrot."""

    model_type = "parrot"
    attribute_map = {  # noqa: RUF012 (transformers declares it so)
        "hidden_size": "width",
        "num_hidden_layers": "depth",
        "num_attention_heads": "n_ears",
        "max_position_embeddings": "longest",
    }

    def __init__(
        self,
        vocab_size: int = 97,
        width: int = 32,
        depth: int = 3,
        n_ears: int = 4,
        n_voices: int = 2,
        ear_size: int = 12,
        n_thoughts: int = 48,
        longest: int = 64,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.width, self.depth, self.longest = width, depth, longest
        self.n_ears, self.n_voices, self.ear_size = n_ears, n_voices, ear_size
        self.n_thoughts = n_thoughts
        super().__init__(**{"tie_word_embeddings": False, **others})


class Calm(nn.Module):
    """RMSNorm, but for the name of everything in it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.floor = 1e-6

    def forward(self, stream: Tensor) -> Tensor:
        return self.weight * stream * (stream.pow(2).mean(-1, keepdim=True) + self.floor).rsqrt()


class Ears(nn.Module):
    """Attention of grouped heads that are wider than `width / n_ears`, with a softmax of its own."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__()
        self.config = config
        self.n_ears, self.n_voices, self.ear_size = config.n_ears, config.n_voices, config.ear_size
        self.asks = nn.Linear(config.width, config.n_ears * config.ear_size)
        self.answers = nn.Linear(config.width, config.n_voices * config.ear_size)
        self.tells = nn.Linear(config.width, config.n_voices * config.ear_size)
        self.sums_up = nn.Linear(config.n_ears * config.ear_size, config.width)

    def forward(self, calm: Tensor, hidden: Tensor) -> Tensor:
        return self.sums_up(self.heard(calm, hidden))

    def heard(self, calm: Tensor, hidden: Tensor) -> Tensor:
        """What enters the output projection."""
        query, key, value = (self.by_ear(make(calm)) for make in (self.asks, self.answers, self.tells))
        heard = self.listen(query, key, value, hidden)
        return heard.transpose(1, 2).flatten(2)

    def by_ear(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (-1, self.ear_size)).transpose(1, 2)

    def listen(self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        """`[n_prompts, n_ears, n_tokens, ear_size]`."""
        key, value = (each.repeat_interleave(self.n_ears // self.n_voices, dim=1) for each in (key, value))
        scores = query @ key.transpose(2, 3) * self.ear_size**-0.5 + hidden
        return scores.softmax(-1) @ value


class Thoughts(nn.Module):
    """A gated FFN."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__()
        self.doubts = nn.Linear(config.width, config.n_thoughts)
        self.ideas = nn.Linear(config.width, config.n_thoughts)
        self.concludes = nn.Linear(config.n_thoughts, config.width)

    def forward(self, calm: Tensor) -> Tensor:
        return self.concludes(nn.functional.silu(self.doubts(calm)) * self.ideas(calm))


class Perch(nn.Module):
    """A sequential block."""

    ears_class: type[Ears] = Ears
    thoughts_class: type[Thoughts] = Thoughts

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__()
        self.before_ears, self.before_thoughts = Calm(config.width), Calm(config.width)
        self.ears = self.ears_class(config)
        self.thoughts = self.thoughts_class(config)

    def forward(self, stream: Tensor, hidden: Tensor) -> Tensor:
        stream = stream + self.ears(self.before_ears(stream), hidden)
        return stream + self.thoughts(self.before_thoughts(stream))


class ParrotBase(PreTrainedModel):
    """What all parrots share."""

    config_class = ParrotConfig
    base_model_prefix = "bird"
    _supports_sdpa = True


class Bird(ParrotBase):
    """The body: embeddings of tokens and places, perches, a last norm."""

    perch_class: type[Perch] = Perch

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.syllables = nn.Embedding(config.vocab_size, config.width)
        self.places = nn.Embedding(config.longest, config.width)
        self.perches = nn.ModuleList(self.perch_class(config) for _ in range(config.depth))
        self.settled = Calm(config.width)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.syllables

    def forward(self, input_ids: Tensor, **others: Any) -> BaseModelOutputWithPast:
        stream = self.syllables(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        return BaseModelOutputWithPast(last_hidden_state=self.settled(self.climb(stream, input_ids)))

    def climb(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        """Through all perches."""
        for perch in self.perches:
            stream = perch(stream, self.hidden(stream))
        return stream

    def hidden(self, stream: Tensor) -> Tensor:
        """What is added to the scores, `[1, 1, n_tokens, n_tokens]`: later tokens are not heard."""
        n_tokens = stream.shape[1]
        never = torch.full((1, 1, n_tokens, n_tokens), torch.finfo(stream.dtype).min, dtype=stream.dtype)
        return never.triu(1)


class ParrotForCausalLM(ParrotBase, GenerationMixin):
    """A parrot that says the next syllable."""

    bird_class: type[Bird] = Bird

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.bird = self.bird_class(config)
        self.squawk = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.bird.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.squawk

    def forward(self, input_ids: Tensor, **others: Any) -> CausalLMOutputWithPast:
        settled = self.bird(input_ids, **others).last_hidden_state
        return CausalLMOutputWithPast(logits=self.squawk(settled))


AutoConfig.register("parrot", ParrotConfig)
AutoModelForCausalLM.register(ParrotConfig, ParrotForCausalLM)

PARROT = Family("Parrot", "parrot", "attention of its own, wide heads, biases")
