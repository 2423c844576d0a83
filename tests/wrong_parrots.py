"""Parrots that compute something which discovery does not know: one thing wrong with each.

`WRONG` names what is wrong, the classes that do it, and words of the refusal that it must meet with; `ODD`
those that only look wrong, because what they do is part of what a neuron or an attention weight is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from made_up import Bird, Calm, Ears, ParrotConfig, ParrotForCausalLM, Perch, Thoughts
from mnemoscope.model.families import with_random_weights


def parrot_of(*parts: type[nn.Module]) -> PreTrainedModel:
    """A parrot some of whose parts are of these classes instead of the usual ones, with random weights."""

    def chosen(usual: type[Any], **attributes: Any) -> type[Any]:
        found = next((part for part in parts if issubclass(part, usual)), usual)
        return type(usual.__name__, (found,), attributes)

    perch = chosen(Perch, ears_class=chosen(Ears), thoughts_class=chosen(Thoughts))
    parrot = chosen(ParrotForCausalLM, bird_class=chosen(Bird, perch_class=perch))
    return with_random_weights(parrot(ParrotConfig()).eval())


def odd_places(states: Tensor) -> Tensor:
    """1 at odd positions and 0 at even ones, `[n_tokens, 1]`."""
    return torch.arange(states.shape[1])[:, None] % 2


class Thrice(Thoughts):
    """Scaled at odd positions."""

    def forward(self, calm: Tensor) -> Tensor:
        return super().forward(calm) * (1 + 2 * odd_places(calm))


class OncePerPrompt(Thoughts):
    """Scaled at one position."""

    def forward(self, calm: Tensor) -> Tensor:
        return super().forward(calm) * (1 + (torch.arange(calm.shape[1]) == 3))[:, None]


class ByState(Thoughts):
    """Scaled by the state."""

    def forward(self, calm: Tensor) -> Tensor:
        return super().forward(calm) * (1 + 0.1 * calm[..., :1].tanh())


class ByLength(Thoughts):
    """Scaled by the length of the prompt; by 1 on the probe."""

    def forward(self, calm: Tensor) -> Tensor:
        return super().forward(calm) * (1 + (calm.shape[1] - 9) / 10)


class TellingTokens(Bird):
    """Tells its FFNs which tokens it reads."""

    def climb(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        for perch in self.perches:
            perch.thoughts.tokens = input_ids
        return super().climb(stream, input_ids)


class ByToken(Thoughts):
    """Scaled by the token; by 1 for every third one."""

    def forward(self, calm: Tensor) -> Tensor:
        return super().forward(calm) * (1 + 0.1 * (self.tokens % 3))[..., None]


class Twofold(Thoughts):
    """A second FFN added to the first."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.second = Thoughts(config)

    def forward(self, calm: Tensor) -> Tensor:
        return super().forward(calm) + self.second(calm)


class Faintly(Twofold):
    """The same, a thousandth of it."""

    def forward(self, calm: Tensor) -> Tensor:
        return Thoughts.forward(self, calm) + 1e-3 * self.second(calm)


class Squashed(Thoughts):
    """A nonlinearity after the down projection."""

    def forward(self, calm: Tensor) -> Tensor:
        return super().forward(calm).tanh()


class Weight(nn.Module):
    """A weight for each dim."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        return states * self.weight


class Weighed(Thoughts):
    """A weight for each dim of the output, which may be taken for a norm."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.weighs = Weight(config.width)

    def forward(self, calm: Tensor) -> Tensor:
        return self.weighs(super().forward(calm))


class Shifted(Thoughts):
    """What the FFN gives is added at the next position too."""

    def forward(self, calm: Tensor) -> Tensor:
        given = super().forward(calm)
        return given + 0.2 * nn.functional.pad(given, (0, 0, 1, 0))[:, :-1]


class Forgetful(Thoughts):
    """Dropout that does not stop in evaluation."""

    def forward(self, calm: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(calm), 0.1, training=True)


class Tired(Thoughts):
    """Weaker from run to run."""

    runs = 0

    def forward(self, calm: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(calm) / self.runs


class WeighedEars(Ears):
    """A weight for each dim of what attention gives."""

    def forward(self, calm: Tensor, hidden: Tensor) -> Tensor:
        return super().forward(calm, hidden) * torch.linspace(0.5, 1.5, calm.shape[-1])


class WeighedEarsByModule(Ears):
    """The same by a module, which may be taken for a norm."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.weighs = Weight(config.width)

    def forward(self, calm: Tensor, hidden: Tensor) -> Tensor:
        return self.weighs(super().forward(calm, hidden))


class GatedEars(Ears):
    """A gate between heads and output projection, as in Qwen3-Next."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.gate = nn.Linear(config.width, config.n_ears * config.ear_size)

    def heard(self, calm: Tensor, hidden: Tensor) -> Tensor:
        return super().heard(calm, hidden) * self.gate(calm).sigmoid()


class MixedEars(Ears):
    """Heads are mixed before the output projection."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.mixes = nn.Linear(config.n_ears, config.n_ears)

    def listen(self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        return self.mixes(super().listen(query, key, value, hidden).transpose(1, 3)).transpose(1, 3)


class DifferentialEars(Ears):
    """One attention less another."""

    def listen(self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        listen = super().listen
        return listen(query, key, value, hidden) - 0.3 * listen(-query, key, value, hidden)


class UnequalEars(Ears):
    """One head of size 20 and one of 28."""

    def listen(self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        key, value = (each.repeat_interleave(self.n_ears // self.n_voices, dim=1) for each in (key, value))
        query, key, value = (each.transpose(1, 2).flatten(2) for each in (query, key, value))
        heard = [
            (q @ k.transpose(1, 2) / 5 + hidden[0]).softmax(-1) @ v
            for q, k, v in zip(*(each.split([20, 28], -1) for each in (query, key, value)), strict=True)
        ]
        return torch.cat(heard, -1)[:, None]


class LinearEars(Ears):
    """Weights that come from no softmax."""

    def listen(self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        key, value = (each.repeat_interleave(self.n_ears // self.n_voices, dim=1) for each in (key, value))
        return (query @ key.transpose(2, 3)).sigmoid().masked_fill(hidden < 0, 0) @ value


class ThirdStep(Perch):
    """A second FFN behind the first, with a norm of its own."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.before_more, self.more = Calm(config.width), Thoughts(config)

    def forward(self, stream: Tensor, hidden: Tensor) -> Tensor:
        stream = super().forward(stream, hidden)
        return stream + self.more(self.before_more(stream))


class CalmStream(Perch):
    """The stream itself is normed, as before pre-norms were found."""

    def forward(self, stream: Tensor, hidden: Tensor) -> Tensor:
        stream = self.before_ears(stream + self.ears(stream, hidden))
        return self.before_thoughts(stream + self.thoughts(stream))


class ShrinkingStream(Perch):
    """The stream is scaled from block to block."""

    def forward(self, stream: Tensor, hidden: Tensor) -> Tensor:
        return 0.9 * super().forward(stream, hidden)


class Biased(Perch):
    """A vector that belongs to no part is added."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.bias = nn.Parameter(torch.zeros(config.width))

    def forward(self, stream: Tensor, hidden: Tensor) -> Tensor:
        return super().forward(stream, hidden) + self.bias


class Skipping(Bird):
    """A residual that skips a block."""

    def climb(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        older = torch.zeros_like(stream)
        for perch in self.perches:
            stream, older = perch(stream, self.hidden(stream)) + older, stream
        return stream


class FreshSyllables(Bird):
    """Embeddings of its own for every layer."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.fresh = nn.Embedding(config.vocab_size, config.width)

    def climb(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        for perch in self.perches:
            stream = perch(stream, self.hidden(stream)) + self.fresh(input_ids)
        return stream


class FirstLouder(Bird):
    """The first position's final state is doubled."""

    def climb(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        first = torch.arange(input_ids.shape[1])[:, None] == 0
        return super().climb(stream, input_ids) * (1 + first)


class Remembering(Bird):
    """Something of the last prompt is added to the next."""

    kept = torch.zeros(())

    def climb(self, stream: Tensor, input_ids: Tensor) -> Tensor:
        stream = super().climb(stream + self.kept, input_ids)
        self.kept = 0.1 * stream.mean()
        return stream


class HearingAll(Bird):
    """Every token sees all others."""

    def hidden(self, stream: Tensor) -> Tensor:
        return torch.zeros_like(super().hidden(stream))


class HearingTheBeginning(Bird):
    """The first four tokens see each other, as in a prefix language model."""

    def hidden(self, stream: Tensor) -> Tensor:
        hidden = super().hidden(stream)
        hidden[..., :4, :4] = 0
        return hidden


class TurnedInTheEnd(Bird):
    """A matrix behind the final norm."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.turns = nn.Linear(config.width, config.width)

    def forward(self, input_ids: Tensor, **others: Any) -> BaseModelOutputWithPast:
        settled = super().forward(input_ids, **others).last_hidden_state
        return BaseModelOutputWithPast(last_hidden_state=self.turns(settled))


class _Loud(ParrotForCausalLM):
    """Something becomes of the logits."""

    def forward(self, input_ids: Tensor, **others: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(
            logits=self.loud(super().forward(input_ids, **others).logits, input_ids)
        )

    def loud(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        raise NotImplementedError


class WeighedLogits(_Loud):
    """Each token's logit is multiplied by a learned weight."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.weights = nn.Parameter(torch.ones(config.vocab_size))

    def loud(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        return logits * self.weights


class CappedLogits(_Loud):
    """A soft-cap of which the config says nothing."""

    def loud(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        return 30 * (logits / 30).tanh()


class LogitsByPlace(_Loud):
    """Sharper at odd positions."""

    def loud(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        return logits * (1 + odd_places(input_ids))


class NoRepeats(_Loud):
    """Tokens that were there are less likely."""

    def loud(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        return logits - torch.zeros_like(logits).scatter(2, input_ids[..., None], 1.0).cumsum(1)


class LongPrompts(Thoughts):
    """Something happens to long prompts alone, of which no short probe can know."""

    def forward(self, calm: Tensor) -> Tensor:
        return super().forward(calm) * (1 + (torch.arange(calm.shape[1]) > 12))[:, None]


class NormInTheMiddle(Thoughts):
    """A down projection in two steps with a norm between: neurons are the inputs of the second."""

    def __init__(self, config: ParrotConfig) -> None:
        super().__init__(config)
        self.between, self.calm = nn.Linear(config.n_thoughts, 40), Calm(40)
        self.concludes = nn.Sequential(self.between, self.calm, nn.Linear(40, config.width))


class SharpEars(Ears):
    """Weights that sum to more than 1."""

    def listen(self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        key, value = (each.repeat_interleave(self.n_ears // self.n_voices, dim=1) for each in (key, value))
        return (1.5 * (query @ key.transpose(2, 3) / 5 + hidden).softmax(-1)) @ value


class InterleavedEars(Ears):
    """Query heads take their key/value head in turn, not in groups."""

    def listen(self, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
        key, value = (each.repeat(1, self.n_ears // self.n_voices, 1, 1) for each in (key, value))
        return (query @ key.transpose(2, 3) / 5 + hidden).softmax(-1) @ value


_STREAM = r"residual stream \(off by"
_FFN = r"FFN neurons \(off by"
_ATTENTION = r"attention neurons \(off by"
_READOUT = r"readout \(off by"
_AGAIN = "other logits when it is run again"
_NOT_CAUSAL = "not causal"
_UNREAD = "nothing reads the residual stream"
_CALLS = "called an attention function {} times"

WRONG: dict[str, tuple[tuple[type[nn.Module], ...], str]] = {
    "the FFN scaled at odd positions": ((Thrice,), _STREAM),
    "the FFN scaled at one position": ((OncePerPrompt,), _STREAM),
    "the FFN scaled by the state": ((ByState,), _STREAM),
    "the FFN scaled by the token": ((TellingTokens, ByToken), _STREAM),
    "the FFN scaled by the length": ((ByLength,), _NOT_CAUSAL),
    "a second FFN beside the first": ((Twofold,), _STREAM),
    "a faint second FFN": ((Faintly,), _STREAM),
    "a second FFN after the first": ((ThirdStep,), _STREAM),
    "a nonlinearity after the FFN": ((Squashed,), _STREAM),
    "a weight per dim after the FFN": ((Weighed,), _FFN),
    "the FFN added at the next position too": ((Shifted,), _STREAM),
    "dropout": ((Forgetful,), _AGAIN),
    "weaker from run to run": ((Tired,), _AGAIN),
    "a memory of the last prompt": ((Remembering,), _AGAIN),
    "a weight per dim after attention": ((WeighedEars,), _UNREAD),
    "the same by a module": ((WeighedEarsByModule,), _ATTENTION),
    "gated heads": ((GatedEars,), _ATTENTION),
    "mixed heads": ((MixedEars,), _ATTENTION),
    "the difference of two attentions": ((DifferentialEars,), _CALLS.format(2)),
    "heads of unequal size": ((UnequalEars,), _CALLS.format(2)),
    "attention without a softmax": ((LinearEars,), "called no attention function"),
    "a normed stream": ((CalmStream,), _STREAM),
    "a shrinking stream": ((ShrinkingStream,), _STREAM),
    "a bias of the stream": ((Biased,), _STREAM),
    "a residual that skips a block": ((Skipping,), _STREAM),
    "embeddings for every layer": ((FreshSyllables,), _STREAM),
    "a doubled state at the first position": ((FirstLouder,), _STREAM),
    "no mask": ((HearingAll,), _NOT_CAUSAL),
    "no mask at the beginning": ((HearingTheBeginning,), _NOT_CAUSAL),
    "a matrix behind the final norm": ((TurnedInTheEnd,), _READOUT),
    "weighed logits": ((WeighedLogits,), _READOUT),
    "a soft-cap that the config hides": ((CappedLogits,), _READOUT),
    "logits scaled at odd positions": ((LogitsByPlace,), _READOUT),
    "logits lowered by repetition": ((NoRepeats,), _READOUT),
}

ODD: dict[str, type[nn.Module]] = {
    "a norm in the middle of the down projection": NormInTheMiddle,
    "attention weights that do not sum to 1": SharpEars,
    "heads that share values in turn": InterleavedEars,
}
