"""The states that parts are added to, and the sums over the vocabulary that scores are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.model.capture import Trace

# Sums of exponentials between this and its inverse have lost nothing that float32 could tell.
SAFE = 1e-20


@dataclass(frozen=True, eq=False)
class BaseStates:
    """Every state of the last position that a part is added to or that results from it.

    States are read out once and shared: in sequential blocks `resid_mid` is both the result of adding
    the attention output and the base of the FFN.

    Attributes:
        states: `[n_states, d_model]`; the first is the embeddings'.
        attention: index of the state each layer's attention parts are added to, `[n_layers]`.
        ffn: the same for FFN parts, `[n_layers]`.
        after_attention: index of that state plus the whole attention output, `[n_layers]`.
        after_ffn: index of that state plus the whole FFN output, `[n_layers]`.
    """

    states: Tensor
    attention: Tensor
    ffn: Tensor
    after_attention: Tensor
    after_ffn: Tensor

    def layer_scores(self, values: Tensor) -> Tensor:
        """How each layer's attention and FFN output change a value `[n_states]`, `[n_layers, 2]`."""
        attention = values[self.after_attention] - values[self.attention]
        return torch.stack([attention, values[self.after_ffn] - values[self.ffn]], dim=1)


def base_states(trace: Trace) -> BaseStates:
    """The states of a trace (docs/method.md#value-score says which state belongs to which part)."""
    n_layers = trace.n_layers
    stream = torch.cat([trace.resid_pre, trace.final_state[None]])
    layers = torch.arange(n_layers, device=stream.device)
    if not trace.parallel:
        mid = layers + n_layers + 1
        states = torch.cat([stream, trace.resid_mid])
        return BaseStates(states, attention=layers, ffn=mid, after_attention=mid, after_ffn=layers + 1)
    plus_attention = trace.resid_pre + trace.attention_out
    plus_ffn = trace.resid_pre + trace.ffn_out
    return BaseStates(
        states=torch.cat([stream, plus_attention, plus_ffn]),
        attention=layers,
        ffn=layers,
        after_attention=layers + n_layers + 1,
        after_ffn=layers + 2 * n_layers + 1,
    )


def log_sum_exp(fill: Callable[[], Tensor]) -> Tensor:
    """`logsumexp` over the last axis of exponents.

    To subtract the largest first takes two more passes over them and is needed only where a sum leaves the
    middle of float32; whether it is depends on a sum alone and not on its neighbours.

    Args:
        fill: makes the exponents, which are overwritten; called once more where it is needed.
    """
    sums = fill().exp_().sum(-1)
    safe = (sums > SAFE) & (sums < 1 / SAFE)
    logs = sums.log_()
    if bool(safe.all()):
        return logs
    exponents = fill()
    largest = exponents.amax(-1, keepdim=True)
    shifted = exponents.sub_(largest).exp_().sum(-1).log_() + largest[..., 0]
    return torch.where(safe, logs, shifted)
