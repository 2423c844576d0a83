"""Facts to study: turned into tokens, and filtered to those that the model knows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnemoscope.errors import OptionError, PromptError, TargetError
from mnemoscope.model.agreement import tolerance_of
from mnemoscope.model.capture import final_states
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import Prompt, as_a_word, encode_continuation, encode_prompt, token_text

TOKENS_PER_PASS = 256  # a trace keeps the values of every position, half a megabyte each in a 7B model


@dataclass(frozen=True)
class Fact:
    """One thing to know, asked in one wording.

    Attributes:
        line: its number in the source, from 1, which no other fact has: of its line or item, or of the fact
            where some lines hold several.
        prompt: the text before the target.
        target: the answer, as written in the file.
        relation: the type of knowledge; answers of one relation compete with each other. Empty if nobody
            says, as for quiz questions: they compete with none.
        subject: what is asked about; empty if the file does not say. Facts of one relation, subject and
            target are paraphrases of each other.
        template: the wording, with `{}` for the subject; empty if the file does not say.
        aliases: other texts of the same answer; the first of all that is one token is the target.
        place: where it is in the source, in words; empty for its line.
    """

    line: int
    prompt: str
    target: str
    relation: str
    subject: str = ""
    template: str = ""
    aliases: tuple[str, ...] = ()
    place: str = field(default="", compare=False)

    @property
    def where(self) -> str:
        """Its place, such as `line 3`, or `capitals.json, item 3`."""
        return self.place or f"line {self.line}"


@dataclass(frozen=True)
class BadLine:
    """A line, or an item of a document, that cannot be used.

    Attributes:
        line: its number in its file, from 1; that of the fact where the model cannot read it.
        reason: what is wrong with it and what to do.
        place: where it is in the source, in words; empty for its line.
    """

    line: int
    reason: str
    place: str = field(default="", compare=False)

    @property
    def where(self) -> str:
        """Its place, such as `line 3`, or `capitals.json, item 3`."""
        return self.place or f"line {self.line}"


@dataclass(frozen=True)
class FactFile:
    """What a source of facts holds, all in its order.

    Attributes:
        facts: of the good lines, at least one.
        bad_lines: the others; empty lines are neither.
        promptless: what is well written but gives no prompt, such as patterns whose object is not at the end.
    """

    facts: tuple[Fact, ...]
    bad_lines: tuple[BadLine, ...]
    promptless: tuple[BadLine, ...] = ()


@dataclass(frozen=True)
class ResolvedFact:
    """A fact as the model reads it.

    Attributes:
        fact: as written in the file.
        prompt: its prompt in tokens.
        target: id of the one token that its target, or the first such alias, is after the prompt.
    """

    fact: Fact
    prompt: Prompt
    target: int


@dataclass(frozen=True)
class Verdict:
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
class Dropped:
    """A fact that the filter takes out.

    Attributes:
        fact: as written in the file.
        reason: what the model predicts instead.
    """

    fact: Fact
    reason: str


def resolve(language_model: LanguageModel, facts: Iterable[Fact]) -> tuple[list[ResolvedFact], list[BadLine]]:
    """Turn prompts and targets into tokens.

    The target is the first of a fact's target and aliases that is one token, tokenised together with the
    prompt. Files of facts write the bare answer ("Paris"), so one that is a word of its own after the prompt
    gets its space; `begins_new_word` (docs/facts_formats.md) says after which prompts it is one. A target
    with a space in front is taken as written.

    Returns:
        The facts with a target of one token, and the lines of the others: what is wrong with their own
        target, not with its aliases.
    """
    resolved, bad_lines = [], []
    for fact in facts:
        try:
            prompt = encode_prompt(language_model, fact.prompt)
            target = _target(language_model, prompt, fact)
        except (PromptError, TargetError) as error:
            bad_lines.append(BadLine(fact.line, str(error), fact.place))
        else:
            resolved.append(ResolvedFact(fact, prompt, target))
    return resolved, bad_lines


def answers_of(resolved: Iterable[ResolvedFact]) -> dict[str, list[int]]:
    """The targets that compete with each other: token ids by relation, ascending, each once."""
    targets: dict[str, set[int]] = {}
    for fact in resolved:
        if fact.fact.relation:
            targets.setdefault(fact.fact.relation, set()).add(fact.target)
    return {relation: sorted(ids) for relation, ids in targets.items()}


def judged(
    language_model: LanguageModel,
    resolved: Sequence[ResolvedFact],
    rank: int = 10,
    rivals: bool = True,
    answers: Mapping[str, Sequence[int]] | None = None,
) -> list[Verdict]:
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
    return _Judge(language_model, competing if rivals else {}, rank).verdicts(resolved)


def known_facts(
    language_model: LanguageModel, resolved: Sequence[ResolvedFact], rank: int = 10, rivals: bool = True
) -> tuple[list[ResolvedFact], list[Dropped]]:
    """The facts that the model knows, as `judged` finds.

    Returns:
        The facts kept and the facts dropped, each in the order given.

    Raises:
        OptionError: `rank` is below 1.
    """
    kept, dropped = [], []
    for verdict in judged(language_model, resolved, rank, rivals):
        if verdict.reason is None:
            kept.append(verdict.fact)
        else:
            dropped.append(Dropped(verdict.fact.fact, verdict.reason))
    return kept, dropped


def spread(resolved: Sequence[ResolvedFact], n: int) -> list[ResolvedFact]:
    """At most n facts, as many of each relation as can be, taken at even distances, in their order.

    The first lines of a file tend to be one subject in several wordings.

    Raises:
        OptionError: `n` is below 1.
    """
    if n < 1:
        raise OptionError(f"the limit is {n}; give 1 fact or more")
    places: dict[str, list[int]] = {}
    for place, fact in enumerate(resolved):
        places.setdefault(fact.fact.relation, []).append(place)
    shares = dict.fromkeys(places, 0)
    while sum(shares.values()) < min(n, len(resolved)):
        left = [relation for relation in shares if shares[relation] < len(places[relation])]
        shares[min(left, key=shares.__getitem__)] += 1
    chosen = [
        of_relation[i * len(of_relation) // share]
        for of_relation, share in zip(places.values(), shares.values(), strict=True)
        for i in range(share)
    ]
    return [resolved[place] for place in sorted(chosen)]


def _target(language_model: LanguageModel, prompt: Prompt, fact: Fact) -> int:
    """The one token that the target is, or else the first alias that is one.

    Raises:
        TargetError: none is; the message is about the target.
    """
    reasons = []
    for text in (fact.target, *fact.aliases):
        try:
            return _one_token(language_model, prompt, text)
        except TargetError as reason:
            reasons.append(reason)
    raise reasons[0]


def _one_token(language_model: LanguageModel, prompt: Prompt, text: str) -> int:
    # Not by encode_target, which looks through the vocabulary for what to offer instead, a tenth of a second
    # that is too much for thousands of facts.
    ids = encode_continuation(language_model, prompt, as_a_word(language_model, prompt, text))
    if len(ids) == 1:
        return ids[0]
    raise TargetError(
        f"the target {text!r} is {len(ids)} tokens, and that of a fact is one; "
        "add an alias of one token, or leave the fact out"
    )


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
    states = final_states(language_model.model, language_model.anatomy, prompts)
    # An axis of one makes the norm's scale [n_prompts, 1]: each state is read out with its own.
    return language_model.anatomy.readout.freeze(states[:, None]).log_probabilities(states)


@dataclass(frozen=True)
class _Judge:
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
    def verdicts(self, resolved: Sequence[ResolvedFact]) -> list[Verdict]:
        """One for each fact, in their order."""
        verdicts: dict[int, Verdict] = {}
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

    def _verdict(self, fact: ResolvedFact, log_p: Tensor) -> Verdict:
        if not log_p.isfinite().all():
            return Verdict(
                fact,
                0,
                math.nan,
                "the model predicts NaN or infinite values after the prompt; check the weights, "
                "or load half-precision weights as float32",
            )
        value, others = log_p[fact.target], self._others(fact, log_p)
        found = int((others > value).sum()) + 1
        reason = None if self._passes(fact, value, others) else self._reason(fact, others, found)
        return Verdict(fact, found, float(value.exp()), reason)

    def _reason(self, fact: ResolvedFact, others: Tensor, found: int) -> str:
        """Why a fact whose target is number `found` is dropped."""
        tokenizer = self.language_model.tokenizer
        target = repr(token_text(tokenizer, fact.target))
        if found > self.rank:
            return f"{target} is number {found} of the model's next tokens, not among the first {self.rank}"
        rivals = self._rivals(fact)
        rival = token_text(tokenizer, rivals[int(others[rivals].argmax())])
        return f"{rival!r}, another answer of the relation, is as likely as {target} or more"
