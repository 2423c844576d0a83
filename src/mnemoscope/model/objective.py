"""The objective of a prediction, and the targets that define it: one token, any of several, or log-odds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex, cast

import torch
from torch import Tensor

from mnemoscope._arguments import whole_number
from mnemoscope.errors import TargetError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.readout import CappedLogits, FrozenReadout, Predicted, log_softmax
from mnemoscope.model.tokens import Prompt, encode_target, token_text


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


# A token by its text, leading space included, or by its id (an int, or a number of numpy or torch); or
# several of them, in a list, a tensor, an array or a column.
Answers = str | SupportsIndex | Iterable[str | SupportsIndex]


def encode_targets(
    language_model: LanguageModel, prompt: Prompt, targets: Answers, name: str = "target"
) -> tuple[int, ...]:
    """Return the token ids of one target or of several.

    Args:
        language_model: whose tokenizer to use.
        prompt: what comes before.
        targets: one or more, each a text or an id.
        name: of the argument, for messages.

    Raises:
        TargetError: there is none, one is given twice, one is not one token that can follow the prompt, or
            the argument is neither a token nor several.
    """
    given = listed_answers(targets, name)
    ids = tuple(encode_target(language_model, prompt, target) for target in given)
    twice = next((token for token in ids if ids.count(token) > 1), None)
    if twice is not None:
        raise TargetError(f"{_named(language_model, twice)} is given twice as {name}; give each token once")
    return ids


def listed_answers(answers: Answers, name: str) -> list[str | SupportsIndex]:
    """Return one answer or several as a list of texts and ids; `name` is the argument's, for messages.

    Raises:
        TargetError: there is none, or the argument is neither an answer nor several.
    """
    if isinstance(answers, str | bytes | bool) or whole_number(answers) is not None:
        return [cast("str | SupportsIndex", answers)]
    if isinstance(answers, Mapping) or not isinstance(answers, Iterable) or not getattr(answers, "ndim", 1):
        raise TargetError(f"the {name} is {answers!r}; give a token's text or id, or a list of these")
    given = list(answers)
    if not given:
        raise TargetError(f"the list for {name} is empty; give one token or more, or leave it out")
    return given


def check_apart(language_model: LanguageModel, answers: tuple[int, ...], against: tuple[int, ...]) -> None:
    """Refuse tokens that are on both sides of a comparison.

    Raises:
        TargetError: there is one.
    """
    for token in against:
        if token in answers:
            raise TargetError(
                f"{_named(language_model, token)} is a target and among those it is compared with; "
                "take it out of one of the two"
            )


def check_alternatives(language_model: LanguageModel, answers: Sequence[Sequence[int]]) -> None:
    """Refuse answers, of one token or several each, that do not exclude each other.

    Raises:
        TargetError: one is another, or begins with it.
    """
    for number, answer in enumerate(answers):
        for other in answers[:number]:
            short, long = sorted((tuple(other), tuple(answer)), key=len)
            if long[: len(short)] != short:
                continue
            tokenizer = language_model.tokenizer
            named = [" ".join(repr(token_text(tokenizer, i)) for i in ids) for ids in (short, long)]
            how = "is given twice" if short == long else f"begins {named[1]}"
            raise TargetError(
                f"{named[0]} {how}, so that these answers do not exclude each other; compare answers of "
                "which none begins another"
            )


def _named(language_model: LanguageModel, token: int) -> str:
    return f"{token_text(language_model.tokenizer, token)!r} (id {token})"
