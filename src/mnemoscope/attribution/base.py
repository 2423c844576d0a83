"""The states that parts are added to and what each of them predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.attribution.objective import Objective
from mnemoscope.model.capture import Trace
from mnemoscope.model.readout import FrozenReadout, Predicted


@dataclass(frozen=True)
class BaseStates:
    """Predictions of every state of the last position that a part is added to or that results from it.

    States are read out once and shared: in sequential blocks `resid_mid` is both the result of adding
    the attention output and the base of the FFN.

    Attributes:
        predicted: by each state, of the readout's tokens.
        attention: index of the state each layer's attention parts are added to, `[n_layers]`.
        ffn: the same for FFN parts, `[n_layers]`.
        after_attention: index of that state plus the whole attention output, `[n_layers]`.
        after_ffn: index of that state plus the whole FFN output, `[n_layers]`.
    """

    predicted: Predicted
    attention: Tensor
    ffn: Tensor
    after_attention: Tensor
    after_ffn: Tensor

    def layer_scores(self, objective: Objective) -> Tensor:
        """How each layer's attention and FFN output change an objective, `[n_layers, 2]`, nats."""
        value = objective.value(self.predicted.log_probabilities)
        return torch.stack(
            [
                value[self.after_attention] - value[self.attention],
                value[self.after_ffn] - value[self.ffn],
            ],
            dim=1,
        )


def base_states(trace: Trace, readout: FrozenReadout) -> BaseStates:
    """Read out the states of a trace (METHOD section 4 says which state belongs to which part)."""
    n_layers = trace.n_layers
    stream = torch.cat([trace.resid_pre, trace.final_state[None]])
    layers = torch.arange(n_layers, device=stream.device)
    if not trace.parallel:
        states = torch.cat([stream, trace.resid_mid])
        mid = layers + n_layers + 1
        return BaseStates(
            predicted=readout.predict(states),
            attention=layers,
            ffn=mid,
            after_attention=mid,
            after_ffn=layers + 1,
        )
    plus_attention = trace.resid_pre + trace.attention_out
    plus_ffn = trace.resid_pre + trace.ffn_out
    return BaseStates(
        predicted=readout.predict(torch.cat([stream, plus_attention, plus_ffn])),
        attention=layers,
        ffn=layers,
        after_attention=layers + n_layers + 1,
        after_ffn=layers + 2 * n_layers + 1,
    )


def log_sum_exp_(exponents: Tensor) -> Tensor:
    """`logsumexp` over the last axis that overwrites its argument, which saves copies of it."""
    largest = exponents.amax(-1, keepdim=True)
    return exponents.sub_(largest).exp_().sum(-1).log_() + largest[..., 0]
