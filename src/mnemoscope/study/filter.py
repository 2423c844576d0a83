"""The filter of facts that the model knows (docs/method.md#experiments), and the choice of paraphrases.

Wordings of one fact are not independent of each other: counted as facts of their own they would make every
interval too narrow. So a fact is measured in the first wording that the model knows; of further ones only the
value and query neurons are found, to be compared with those of the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.api import Model
from mnemoscope.errors import OptionError
from mnemoscope.model.activations import final_states
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import token_text
from mnemoscope.model.tolerances import tolerance_of
from mnemoscope.study.columns import FACT, FACTS
from mnemoscope.study.facts import Fact, ResolvedFact, answers_of
from mnemoscope.study.options import StudyOptions

TOKENS_PER_PASS = 256  # a trace keeps the values of every position, half a megabyte each in a 7B model


@dataclass(frozen=True)
class FilterResult:
    """What the model makes of a fact. Batches differ by rounding, and so may rank and probability.

    Attributes:
        fact: as the model reads it.
        rank: of the target among the model's next tokens, from 1; 0 if it predicts NaN or infinite values.
        probability: of the target; NaN if the model predicts no numbers.
        reason: why the fact is dropped; None if it is known.
    """

    fact: ResolvedFact
    rank: int
    probability: float
    reason: str | None


@dataclass(frozen=True)
class DroppedFact:
    """A fact that the filter takes out.

    Attributes:
        fact: as written in the file.
        reason: what the model predicts instead.
    """

    fact: Fact
    reason: str


def filter_facts(
    language_model: LanguageModel,
    resolved: Sequence[ResolvedFact],
    rank: int = 10,
    rivals: bool = True,
    answers: Mapping[str, Sequence[int]] | None = None,
) -> list[FilterResult]:
    """Judge facts by the paper's filter (docs/method.md#experiments).

    A fact is known if its target is among the model's `rank` likeliest next tokens and likelier than
    the target of every other fact of its relation. Prompts run in batches; a verdict that the rounding
    of a batch could turn is taken from the prompt alone, so that each fact is judged as a single prompt
    would be.

    Args:
        language_model: the model.
        resolved: the facts.
        rank: how many of the likeliest tokens the target must be among.
        rivals: whether it must be above the other answers of its relation.
        answers: those other answers (`answers_of` all facts), where `resolved` is a part of the facts;
            of `resolved` itself if not given, which judges a part less strictly than the whole.

    Returns:
        One verdict for each fact, in the order given.

    Raises:
        OptionError: `rank` is below 1, or `answers` lacks a relation.
    """
    if rank < 1:
        raise OptionError(f"rank is {rank}; give 1 or more, such as the paper's 10")
    competing = answers_of(resolved) if answers is None else answers
    missing = {fact.fact.relation for fact in resolved} - {"", *competing}
    if rivals and missing:
        raise OptionError(f"the answers lack the relation {min(missing)!r}; give answers_of all facts")
    return _Filter(language_model, competing if rivals else {}, rank).verdicts(resolved)


def known_facts(
    language_model: LanguageModel, resolved: Sequence[ResolvedFact], rank: int = 10, rivals: bool = True
) -> tuple[list[ResolvedFact], list[DroppedFact]]:
    """The facts that the model knows, as `filter_facts` finds.

    Returns:
        The facts kept and the facts dropped, each in the order given.

    Raises:
        OptionError: `rank` is below 1.
    """
    kept, dropped = [], []
    for verdict in filter_facts(language_model, resolved, rank, rivals):
        if verdict.reason is None:
            kept.append(verdict.fact)
        else:
            dropped.append(DroppedFact(verdict.fact.fact, verdict.reason))
    return kept, dropped


def _batches(resolved: Sequence[ResolvedFact]) -> Iterator[list[int]]:
    """Indices of facts whose prompts are of one length, as many as fit in one pass."""
    groups: dict[int, list[int]] = {}
    for index, fact in enumerate(resolved):
        groups.setdefault(len(fact.prompt.ids), []).append(index)
    for length, indices in groups.items():
        size = max(1, TOKENS_PER_PASS // length)
        yield from (indices[start : start + size] for start in range(0, len(indices), size))


def _log_probabilities(language_model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Of the next token after prompts of one length, `[n_prompts, n_vocabulary]`, in one pass."""
    states = final_states(language_model.model, language_model.structure, prompts)
    # An axis of one makes the norm's scale [n_prompts, 1]: each state is read out with its own.
    return language_model.structure.readout.freeze(states[:, None]).log_probabilities(states)


@dataclass(frozen=True)
class _Filter:
    """Decides which facts a model knows.

    Attributes:
        language_model: the model.
        answers: token ids that compete with each other, by relation; those of others compete with none.
        rank: how many of the likeliest tokens the target must be among.
    """

    language_model: LanguageModel
    answers: Mapping[str, Sequence[int]]
    rank: int

    @isolated_call
    def verdicts(self, resolved: Sequence[ResolvedFact]) -> list[FilterResult]:
        """One for each fact, in their order."""
        verdicts: dict[int, FilterResult] = {}
        for batch in _batches(resolved):
            prompts = [resolved[index].prompt.ids for index in batch]
            for index, row in zip(batch, _log_probabilities(self.language_model, prompts), strict=True):
                fact = resolved[index]
                certain = len(batch) == 1 or self._is_certain(fact, row)
                verdicts[index] = self._verdict(fact, row if certain else self._alone(fact))
        return [verdicts[index] for index in range(len(resolved))]

    def _alone(self, fact: ResolvedFact) -> Tensor:
        return _log_probabilities(self.language_model, [fact.prompt.ids])[0]

    def _is_certain(self, fact: ResolvedFact, log_p: Tensor) -> bool:
        """Whether the verdict stays when the target moves by as much as rounding can move it."""
        # What equal computations may differ by is what the proof at load time allows them.
        relative = tolerance_of(self.language_model.model.dtype)
        slack = relative * log_p.abs().max()
        value, others = log_p[fact.target], self._others(fact, log_p)
        return self._passes(fact, value - slack, others) == self._passes(fact, value + slack, others)

    def _others(self, fact: ResolvedFact, log_p: Tensor) -> Tensor:
        others = log_p.clone()
        others[fact.target] = -torch.inf
        return others

    def _rivals(self, fact: ResolvedFact) -> list[int]:
        return list(self.answers.get(fact.fact.relation, ()))

    def _passes(self, fact: ResolvedFact, value: Tensor, others: Tensor) -> bool:
        rivals = others[self._rivals(fact)]
        return bool((others > value).sum() < self.rank and (rivals < value).all())

    def _verdict(self, fact: ResolvedFact, log_p: Tensor) -> FilterResult:
        if not log_p.isfinite().all():
            return FilterResult(
                fact,
                0,
                math.nan,
                "the model predicts NaN or infinite values after the prompt; check the weights, "
                "or load half-precision weights as float32",
            )
        value, others = log_p[fact.target], self._others(fact, log_p)
        found = int((others > value).sum()) + 1
        reason = None if self._passes(fact, value, others) else self._reason(fact, others, found)
        return FilterResult(fact, found, float(value.exp()), reason)

    def _reason(self, fact: ResolvedFact, others: Tensor, found: int) -> str:
        """Why a fact whose target is number `found` is dropped."""
        tokenizer = self.language_model.tokenizer
        target = repr(token_text(tokenizer, fact.target))
        if found > self.rank:
            return f"{target} is number {found} of the model's next tokens, not among the first {self.rank}"
        rivals = self._rivals(fact)
        rival = token_text(tokenizer, rivals[int(others[rivals].argmax())])
        return f"{rival!r}, another answer of the relation, is as likely as {target} or more"


def filtered_table(
    model: Model,
    resolved: Mapping[int, ResolvedFact],
    unread: Mapping[int, str],
    facts: Mapping[int, Fact],
    numbers: Sequence[int],
    options: StudyOptions,
) -> dict[str, pd.DataFrame]:
    """The rows of `FACTS` of some facts, which compete with the answers of all.

    Args:
        model: the model.
        resolved: all facts that it can read, by number.
        unread: why it cannot read the others.
        facts: all facts.
        numbers: of those to judge.
        options: of the study.
    """
    readable = [resolved[number] for number in numbers if number in resolved]
    answers = answers_of(list(resolved.values()))
    verdicts = filter_facts(model.language_model, readable, options.rank, options.rivals, answers)
    by_number = {verdict.fact.fact.line: verdict for verdict in verdicts}
    rows = [
        {**_written(facts[number]), **_found(model, by_number.get(number), unread.get(number, ""))}
        for number in numbers
    ]
    nullable = {"token_id": "Int32", "n_tokens": "Int32", "rank": "Int64"}
    return {FACTS.name: pd.DataFrame(rows).astype(nullable)}


def _written(fact: Fact) -> dict[str, object]:
    return {
        "fact": fact.line,
        "relation": fact.relation,
        "subject": fact.subject,
        "template": fact.template,
        "prompt": fact.prompt,
        "target": fact.target,
    }


def _found(model: Model, verdict: FilterResult | None, why_unread: str) -> dict[str, object]:
    if verdict is None:
        nothing = dict.fromkeys(("token_id", "token", "n_tokens", "rank", "probability"))
        return {**nothing, "kept": False, "reason": why_unread}
    return {
        "token_id": verdict.fact.target,
        "token": token_text(model.language_model.tokenizer, verdict.fact.target),
        "n_tokens": len(verdict.fact.prompt.ids),
        "rank": verdict.rank,
        "probability": verdict.probability,
        "kept": verdict.reason is None,
        "reason": verdict.reason or "",
    }


# What wordings of one fact have in common.
PARAPHRASE_KEY = ["relation", "subject", "target"]


def to_measure(facts: pd.DataFrame) -> pd.DataFrame:
    """Those rows of `FACTS` that are measured, by number: every known fact in one wording."""
    kept = _kept(facts)
    return kept.loc[_wording(kept) == 0].reset_index(drop=True)


def to_paraphrase(facts: pd.DataFrame, options: StudyOptions) -> pd.DataFrame:
    """Those rows of `FACTS` that are further wordings to compare with, by number."""
    kept = _kept(facts)
    wording = _wording(kept)
    return kept.loc[(wording > 0) & (wording < options.wordings)].reset_index(drop=True)


def _kept(facts: pd.DataFrame) -> pd.DataFrame:
    return facts.loc[facts["kept"].astype(bool)].sort_values(by=FACT, ignore_index=True)


def _wording(kept: pd.DataFrame) -> pd.Series:
    """Which of the known wordings of its fact each row is, from 0."""
    # Without a subject nobody says which prompts ask for the same fact.
    return kept.groupby(PARAPHRASE_KEY).cumcount().where(kept["subject"] != "", 0)
