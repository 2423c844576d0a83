"""The made-up architecture with attention through transformers' interface, parallel blocks and post-norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from made_up import Bird, Calm, Ears, ParrotConfig, ParrotForCausalLM, Perch
from mnemoscope.model.families import Family


class ChoirConfig(ParrotConfig):
    """Sizes of a choir."""

    model_type = "parrot_choir"

    def __init__(self, **sizes: Any) -> None:  # without which transformers makes one of its own
        super().__init__(**sizes)


class ChoirEars(Ears):
    """Attention as transformers computes it."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.num_key_value_groups = config.n_ears // config.n_voices

    def listen(self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        attention = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        return attention(self, query, key, value, hidden, scaling=self.ear_size**-0.5)[0].transpose(1, 2)


class ChoirPerch(Perch):
    """A parallel block whose outputs pass norms before they are added, half as large."""

    ears_class = ChoirEars

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.after_ears, self.after_thoughts = Calm(config.width), Calm(config.width)

    def forward(self, stream: Tensor, hidden: Tensor) -> Tensor:
        heard = self.after_ears(self.ears(self.before_ears(stream), hidden))
        thought = self.after_thoughts(self.thoughts(self.before_thoughts(stream)))
        return stream + 0.5 * heard + 0.5 * thought


class ChoirBird(Bird):
    """The body."""

    perch_class = ChoirPerch


class ChoirForCausalLM(ParrotForCausalLM):
    """Parrots that speak at once, and not too loudly."""

    config_class = ChoirConfig
    bird_class = ChoirBird


AutoConfig.register("parrot_choir", ChoirConfig)
AutoModelForCausalLM.register(ChoirConfig, ChoirForCausalLM)

CHOIR = Family("Parrot choir", "parrot_choir", "parallel blocks, post-norms, multipliers")
