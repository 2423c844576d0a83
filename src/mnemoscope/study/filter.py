"""Filter of the facts that a model knows (docs/method.md#experiments), and the choice of paraphrases.

Paraphrases of one fact are not independent: counted as facts of their own they would make every interval too
narrow. A fact is therefore measured in the first wording that the model knows; of further wordings only the
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
from mnemoscope.intervention.predictions import states_after
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import token_text
from mnemoscope.model.tolerances import SUMS
from mnemoscope.study.columns import FACT, FACTS
from mnemoscope.study.facts import BadLine, Fact, ResolvedFact, answers_of
from mnemoscope.study.options import StudyOptions

TOKENS_PER_PASS = 256  # the activations of one position take half a megabyte in a 7B model
PARAPHRASE_KEY = ["relation", "subject", "target"]  # equal in paraphrases of one fact


@dataclass(frozen=True)
class FilterResult:
    """Prediction for a fact. Rank and probability may differ by rounding between batches.

    Attributes:
        fact: the fact in tokens.
        rank: of the target among the model's next tokens, from 1; 0 if the logits are not finite.
        probability: of the target; NaN if the logits are not finite.
        reason: why the fact is dropped; None if it is known.
    """

    fact: ResolvedFact
    rank: int
    probability: float
    reason: str | None


def filter_facts(
    language_model: LanguageModel,
    resolved: Sequence[ResolvedFact],
    rank: int = 10,
    rivals: bool = True,
    answers: Mapping[str, Sequence[int]] | None = None,
) -> list[FilterResult]:
    """Filter facts as the paper does (docs/method.md#experiments).

    A fact is known if its target is among the model's `rank` likeliest next tokens and likelier than the
    target of every other fact of its relation. Prompts run in batches; a result that the rounding of a batch
    could change is computed again from the prompt alone.

    Args:
        language_model: the model.
        resolved: the facts.
        rank: number of likeliest tokens that must include the target.
        rivals: whether the target must be above the other answers of its relation.
        answers: token ids of those answers by relation (`answers_of`). Default: of `resolved`, which is less
            strict if `resolved` is a part of the facts.

    Returns:
        One result for each fact, in their order.

    Raises:
        OptionError: `rank` is below 1, or `answers` lacks a relation.
    """
    if rank < 1:
        raise OptionError(f"rank is {rank}; give 1 or more, such as the paper's 10")
    competing = answers_of(resolved) if answers is None else answers
    missing = {fact.fact.relation for fact in resolved} - {"", *competing}
    if rivals and missing:
        raise OptionError(f"the answers lack the relation {min(missing)!r}; give answers_of all facts")
    return _Filter(language_model, competing if rivals else {}, rank).results(resolved)


def known_facts(
    language_model: LanguageModel, resolved: Sequence[ResolvedFact], rank: int = 10, rivals: bool = True
) -> tuple[list[ResolvedFact], list[BadLine]]:
    """Return the facts that `filter_facts` keeps and those it drops, each in the order given."""
    kept, dropped = [], []
    for result in filter_facts(language_model, resolved, rank, rivals):
        if result.reason is None:
            kept.append(result.fact)
        else:
            fact = result.fact.fact
            dropped.append(BadLine(fact.line, result.reason, fact.place))
    return kept, dropped


def _batches(resolved: Sequence[ResolvedFact]) -> Iterator[list[int]]:
    """Yield indices of facts whose prompts have one length, as many as fit in one pass."""
    groups: dict[int, list[int]] = {}
    for index, fact in enumerate(resolved):
        groups.setdefault(len(fact.prompt.ids), []).append(index)
    for length, indices in groups.items():
        size = max(1, TOKENS_PER_PASS // length)
        yield from (indices[start : start + size] for start in range(0, len(indices), size))


def _log_probabilities(language_model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return log p of the next token after prompts of one length, `[n_prompts, n_vocabulary]`."""
    states = states_after(language_model, prompts)[:, -1]
    # With an axis of one the norm's scale is [n_prompts, 1]: each state is read out with its own.
    return language_model.structure.readout.freeze(states[:, None]).log_probabilities(states)


@dataclass(frozen=True)
class _Filter:
    """Filter of one model: settings that the steps for each fact share, and an owner for `isolated_call`.

    Attributes:
        language_model: the model.
        answers: competing token ids by relation; facts of other relations compete with none.
        rank: number of likeliest tokens that must include the target.
    """

    language_model: LanguageModel
    answers: Mapping[str, Sequence[int]]
    rank: int

    @isolated_call
    def results(self, resolved: Sequence[ResolvedFact]) -> list[FilterResult]:
        """Return one result for each fact, in their order."""
        results: dict[int, FilterResult] = {}
        for batch in _batches(resolved):
            prompts = [resolved[index].prompt.ids for index in batch]
            for index, row in zip(batch, _log_probabilities(self.language_model, prompts), strict=True):
                fact = resolved[index]
                if len(batch) > 1 and not self._is_certain(fact, row):
                    row = _log_probabilities(self.language_model, [fact.prompt.ids])[0]  # noqa: PLW2901
                results[index] = self._result(fact, row)
        return [results[index] for index in range(len(resolved))]

    def _is_certain(self, fact: ResolvedFact, log_p: Tensor) -> bool:
        """Return whether the result is the same when log p of the target moves by the rounding error."""
        # The error that the validation of a loaded model allows.
        slack = SUMS.of(self.language_model.model.dtype) * log_p.abs().max()
        value, others = log_p[fact.target], _others(fact, log_p)
        return self._passes(fact, value - slack, others) == self._passes(fact, value + slack, others)

    def _rivals(self, fact: ResolvedFact) -> list[int]:
        return list(self.answers.get(fact.fact.relation, ()))

    def _passes(self, fact: ResolvedFact, value: Tensor, others: Tensor) -> bool:
        rivals = others[self._rivals(fact)]
        return bool((others > value).sum() < self.rank and (rivals < value).all())

    def _result(self, fact: ResolvedFact, log_p: Tensor) -> FilterResult:
        if not log_p.isfinite().all():
            return FilterResult(
                fact,
                0,
                math.nan,
                "the model predicts NaN or infinite values after the prompt; check the weights, "
                "or load half-precision weights as float32",
            )
        value, others = log_p[fact.target], _others(fact, log_p)
        found = int((others > value).sum()) + 1
        reason = None if self._passes(fact, value, others) else self._reason(fact, others, found)
        return FilterResult(fact, found, float(value.exp()), reason)

    def _reason(self, fact: ResolvedFact, others: Tensor, found: int) -> str:
        tokenizer = self.language_model.tokenizer
        target = repr(token_text(tokenizer, fact.target))
        if found > self.rank:
            return f"{target} is number {found} of the model's next tokens, not among the first {self.rank}"
        rivals = self._rivals(fact)
        rival = token_text(tokenizer, rivals[int(others[rivals].argmax())])
        return f"{rival!r}, another answer of the relation, is as likely as {target} or more"


def _others(fact: ResolvedFact, log_p: Tensor) -> Tensor:
    others = log_p.clone()
    others[fact.target] = -torch.inf
    return others


def filtered_table(
    model: Model,
    resolved: Mapping[int, ResolvedFact],
    left_out: Mapping[int, str],
    facts: Mapping[int, Fact],
    numbers: Sequence[int],
    options: StudyOptions,
) -> dict[str, pd.DataFrame]:
    """Filter some facts, which compete with the answers of all; return their rows of `FACTS`.

    Args:
        model: the model.
        resolved: all facts in tokens but for duplicates, by number.
        left_out: the reasons why other facts are not filtered, by number.
        facts: all facts, by number.
        numbers: of the facts to filter.
        options: of the study.
    """
    readable = [resolved[number] for number in numbers if number in resolved]
    answers = answers_of(list(resolved.values()))
    results = filter_facts(model.language_model, readable, options.rank, options.rivals, answers)
    by_number = {result.fact.fact.line: result for result in results}
    rows = []
    for number in numbers:
        written = ("relation", "subject", "template", "prompt", "target")
        row = {FACT: number, **{name: getattr(facts[number], name) for name in written}}
        result = by_number.get(number)
        if result is None:
            row |= dict.fromkeys(("token_id", "token", "n_tokens", "rank", "probability"))
            row |= {"kept": False, "reason": left_out[number]}
        else:
            row |= {
                "token_id": result.fact.target,
                "token": token_text(model.language_model.tokenizer, result.fact.target),
                "n_tokens": len(result.fact.prompt.ids),
                "rank": result.rank,
                "probability": result.probability,
                "kept": result.reason is None,
                "reason": result.reason or "",
            }
        rows.append(row)
    nullable = {"token_id": "Int32", "n_tokens": "Int32", "rank": "Int64"}
    return {FACTS.name: pd.DataFrame(rows).astype(nullable)}


def to_measure(facts: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of `FACTS` to measure, by number: every known fact in its first known wording."""
    kept = _kept(facts)
    return kept.loc[_wording(kept) == 0].reset_index(drop=True)


def to_paraphrase(facts: pd.DataFrame, options: StudyOptions) -> pd.DataFrame:
    """Select the rows of `FACTS` that are further known wordings to compare with, by number."""
    kept = _kept(facts)
    wording = _wording(kept)
    return kept.loc[(wording > 0) & (wording < options.wordings)].reset_index(drop=True)


def _kept(facts: pd.DataFrame) -> pd.DataFrame:
    return facts.loc[facts["kept"].astype(bool)].sort_values(by=FACT, ignore_index=True)


def _wording(kept: pd.DataFrame) -> pd.Series:
    """Number each row among the known wordings of its fact, from 0."""
    # Without a subject the paraphrases of a fact are unknown.
    return kept.groupby(PARAPHRASE_KEY).cumcount().where(kept["subject"] != "", 0)
