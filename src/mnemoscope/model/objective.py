"""The objective of a prediction: a token's log probability, that of any of several, or log-odds.

The value of a prediction is the log of the total probability of the answers; with tokens to compare them
with, less the log of the total probability of those. A part changes it by what it adds to the logits:
`R(answers) - R(rest)`, where R(G) is the rise of `log sum_{k in G} exp(logit_k)` and the rest is the
tokens compared with, or the whole vocabulary without any. One answer and no others give the
log-probability increase of docs/method.md#value-score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mnemoscope.model.readout import CappedLogits, FrozenReadout, Predicted, log_softmax


@dataclass(frozen=True)
class Objective:
    """Objective of an attribution: scores are changes of its value.

    Attributes:
        answers: token ids, one or more.
        against: ids of the tokens they are compared with, none of them an answer; None for log
            probability, which compares them with the whole vocabulary.
    """

    answers: tuple[int, ...]
    against: tuple[int, ...] | None = None

    @property
    def token(self) -> int | None:
        """Single answer of a log probability; None for several answers and for log-odds."""
        return self.answers[0] if len(self.answers) == 1 and self.against is None else None

    def value(self, log_probabilities: Tensor) -> Tensor:
        """Compute the value of log probabilities, `[..., n_vocabulary] -> [...]`, nats; gradients flow."""
        answers = log_probabilities[..., list(self.answers)].logsumexp(-1)
        if self.against is None:
            return answers
        return answers - log_probabilities[..., list(self.against)].logsumexp(-1)

    def rank(self, log_probabilities: Tensor) -> Tensor:
        """Compute the rank of the likeliest answer, `[..., n_vocabulary] -> [...]`, counted from 1."""
        best = log_probabilities[..., list(self.answers)].amax(-1, keepdim=True)
        return (log_probabilities > best).sum(-1) + 1

    def focus(self, readout: FrozenReadout) -> Focus:
        """Restrict the readout to the tokens that the value depends on; in log-odds all others cancel."""
        if self.against is None:
            return Focus(readout, self)
        ids = torch.tensor([*self.answers, *self.against], device=readout.unembedding.device)
        own = replace(readout, unembedding=readout.unembedding[ids].float(), constant=readout.constant[ids])
        n = len(self.answers)
        return Focus(own, Objective(tuple(range(n)), tuple(range(n, len(ids)))))


@dataclass(frozen=True)
class Focus:
    """Objective with the readout of its own tokens, whose rows number the tokens.

    Attributes:
        readout: of the whole vocabulary for log probability, of the objective's own tokens for log-odds.
        objective: its tokens numbered as the readout's rows.
    """

    readout: FrozenReadout
    objective: Objective

    @property
    def is_all(self) -> bool:
        """Whether the readout covers the whole vocabulary."""
        return self.objective.against is None


@dataclass(frozen=True, eq=False)
class Group:
    """Tokens whose total probability counts, as base states see them.

    Attributes:
        tokens: their numbers among the rows of the readout, `[n]`.
        log_shares: log of each one's share of their total probability, `[n_states, n]`.
        logits: the tokens' logits in each base state before the soft-cap; None without one.
    """

    tokens: Tensor
    log_shares: Tensor
    logits: CappedLogits | None

    @staticmethod
    def of(tokens: Sequence[int], predicted: Predicted) -> Group:
        """Build a group from the predictions of base states."""
        own = predicted.log_probabilities[:, list(tokens)]
        shares = log_softmax(own)
        logits = predicted.logits
        if logits is not None:
            logits = CappedLogits(logits.cap, logits.before[:, list(tokens)])
        return Group(torch.tensor(list(tokens), device=own.device), shares, logits)

    def rise(self, added: Tensor, state: Tensor) -> Tensor:
        """Compute R(tokens), the rise of `log sum exp(logit)` over the tokens by added values.

        Exactly the change of the logit itself where there is one token.

        Args:
            added: to the tokens' before-softmax values, `[..., n]`.
            state: which base state each is added to, `[...]` or broadcast to it.
        """
        changes = added if self.logits is None else self.logits.change(added, state)
        return (self.log_shares[state] + changes).logsumexp(-1)
