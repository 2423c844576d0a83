"""Facts as text and in tokens, and the package's own facts of the paper's six types of knowledge."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TypeVar

from mnemoscope.errors import OptionError, PromptError, TargetError
from mnemoscope.model.encoding import token_text
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import Prompt, as_a_word, encode_continuation, encode_prompt
from mnemoscope.results.circuit import Pair

T = TypeVar("T")


@dataclass(frozen=True)
class Fact:
    """A (subject, relation, object) fact phrased as one prompt.

    Attributes:
        line: unique number in the source, from 1; of the fact where lines hold several.
        prompt: text before the target.
        target: the answer, as written in the source.
        relation: type of knowledge, within which answers compete; empty if unknown, as for quiz questions.
        subject: empty if unknown. Facts of one relation, subject and target are paraphrases.
        template: the prompt with `{}` for the subject; empty if unknown.
        aliases: other texts of the answer; the first text of all that is one token is the target.
        place: position in the source, in words; empty for its line.
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
        """Position in the source, such as `line 3`, or `capitals.json, item 3`."""
        return self.place or f"line {self.line}"


@dataclass(frozen=True)
class BadLine:
    """A line or item that gives no fact, or a fact that is left out.

    Attributes:
        line: number in its file, from 1, or the fact's number.
        reason: the fault and its remedy, or why the fact is left out.
        place: position in the source, in words; empty for its line.
    """

    line: int
    reason: str
    place: str = field(default="", compare=False)

    @property
    def where(self) -> str:
        """Position in the source, such as `line 3`, or `capitals.json, item 3`."""
        return self.place or f"line {self.line}"


@dataclass(frozen=True)
class FactFile:
    """Facts and bad lines of a source, in its order.

    Attributes:
        facts: at least one.
        bad_lines: the lines that give none; empty lines are skipped.
        promptless: well-written items without a prompt, such as patterns that do not end in their object.
    """

    facts: tuple[Fact, ...]
    bad_lines: tuple[BadLine, ...]
    promptless: tuple[BadLine, ...] = ()


@dataclass(frozen=True)
class ResolvedFact:
    """A fact in tokens.

    Attributes:
        fact: the fact.
        prompt: its prompt.
        target: id of the one token that is the target after it.
        against: ids of the tokens that the target is compared with, in log-odds; none for log probability.
    """

    fact: Fact
    prompt: Prompt
    target: int
    against: tuple[int, ...] = ()


def fact_of_prompt(
    language_model: LanguageModel, prompt: Prompt, target: int, against: tuple[int, ...] = ()
) -> ResolvedFact:
    """Make a fact of no relation from a prompt, its target and the tokens that it is compared with."""
    text = token_text(language_model.tokenizer, target)
    return ResolvedFact(Fact(1, prompt.text, text, relation=""), prompt, target, against)


def resolve(language_model: LanguageModel, facts: Iterable[Fact]) -> tuple[list[ResolvedFact], list[BadLine]]:
    """Tokenise prompts and targets.

    The target is the first of a fact's target and aliases that is one token, tokenised together with the
    prompt. A bare answer ("Paris") gets a leading space where it is a new word (docs/facts_formats.md).

    Returns:
        The facts whose target is one token, and the others with the fault of their target, not of aliases.
    """
    resolved, bad_lines = [], []
    for fact in facts:
        try:
            prompt = encode_prompt(language_model, fact.prompt)
            resolved.append(ResolvedFact(fact, prompt, _target(language_model, prompt, fact)))
        except (PromptError, TargetError) as error:
            bad_lines.append(BadLine(fact.line, str(error), fact.place))
    return resolved, bad_lines


def distinct(resolved: Iterable[ResolvedFact]) -> tuple[list[ResolvedFact], list[BadLine]]:
    """Separate facts from later ones of the same relation, prompt and target token, in order."""
    firsts: dict[tuple[str, str, int], Fact] = {}
    found, duplicates = [], []
    for each in resolved:
        key = each.fact.relation, each.fact.prompt, each.target
        if key in firsts:
            reason = f"duplicate; {firsts[key].where} has the same prompt and target"
            duplicates.append(BadLine(each.fact.line, reason, each.fact.place))
        else:
            firsts[key] = each.fact
            found.append(each)
    return found, duplicates


def answers_of(resolved: Iterable[ResolvedFact]) -> dict[str, list[int]]:
    """Return the distinct targets that compete with each other: ascending token ids by relation."""
    targets: dict[str, set[int]] = {}
    for fact in resolved:
        if fact.fact.relation:
            targets.setdefault(fact.fact.relation, set()).add(fact.target)
    return {relation: sorted(ids) for relation, ids in targets.items()}


def evenly(values: Sequence[T], n: int) -> list[T]:
    """Select at most n values, evenly spaced."""
    share = min(n, len(values))
    return [values[i * len(values) // share] for i in range(share)]


def spread(resolved: Sequence[ResolvedFact], n: int) -> list[ResolvedFact]:
    """Select at most n facts, evenly by relation and evenly spaced, in order; raise OptionError if n < 1.

    The first lines of a file tend to be paraphrases of one fact.
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
    chosen = [place for relation, share in shares.items() for place in evenly(places[relation], share)]
    return [resolved[place] for place in sorted(chosen)]


def _target(language_model: LanguageModel, prompt: Prompt, fact: Fact) -> int:
    """Return the token of the target or of the first alias that is one; raise TargetError if none is."""
    errors = []
    for text in (fact.target, *fact.aliases):
        try:
            # encode_target takes a tenth of a second to search the vocabulary for alternatives.
            ids = encode_continuation(language_model, prompt, as_a_word(language_model, prompt, text))
        except TargetError as error:
            errors.append(error)
            continue
        if len(ids) == 1:
            return ids[0]
        errors.append(
            TargetError(
                f"the target {text!r} is {len(ids)} tokens, and that of a fact is one; "
                "add an alias of one token, or leave the fact out"
            )
        )
    raise errors[0]


RELATIONS = ("language", "capital", "country", "color", "number", "month")


def builtin_facts(relations: Sequence[str] | None = None) -> tuple[Fact, ...]:
    """Return the package's own facts, every subject in every wording; `docs/facts.md` is their datasheet.

    Args:
        relations: some of `RELATIONS`; None for all six.

    Returns:
        The facts in the order of the file; `line` numbers them in the whole set, from 1.

    Raises:
        OptionError: a relation is none of the six.
    """
    chosen = RELATIONS if relations is None else relations
    for relation in chosen:
        if relation not in RELATIONS:
            raise OptionError(
                f"there are no own facts of relation {relation!r}; give some of {', '.join(RELATIONS)}"
            )
    return tuple(fact for fact in _all_facts() if fact.relation in chosen)


@cache
def _all_facts() -> tuple[Fact, ...]:
    text = (files("mnemoscope.study") / "builtin_facts.json").read_text(encoding="utf-8")
    facts = []
    for relation in json.loads(text)["relations"]:
        for sample in relation["samples"]:
            subject, aliases = sample["subject"], tuple(sample.get("aliases", ()))
            for template in relation["prompt_templates"]:
                prompt, line = template.replace("{}", subject), len(facts) + 1
                facts.append(
                    Fact(line, prompt, sample["object"], relation["name"], subject, template, aliases)
                )
    return tuple(facts)


def pairs_of_facts(language_model: LanguageModel, facts: Iterable[Fact]) -> tuple[Pair, ...]:
    """Pair each fact with the next one whose prompt differs in the subject alone, and has as many tokens.

    Facts are paired within a relation and a template; one is left out if no other subject has as many tokens
    and another answer, or its own answer is not one token.

    Raises:
        OptionError: no two facts can be paired.
    """
    # A pair that is there twice could be found on and held out.
    resolved, _ = distinct(resolve(language_model, facts)[0])
    groups: dict[tuple[str, str, int], list[ResolvedFact]] = {}
    for fact in resolved:
        if fact.fact.template:
            key = fact.fact.relation, fact.fact.template, len(fact.prompt.ids)
            groups.setdefault(key, []).append(fact)
    pairs = []
    for group in groups.values():
        for place, fact in enumerate(group):
            others = [*group[place + 1 :], *group[:place]]
            other = next((each for each in others if each.target != fact.target), None)
            if other is not None:
                answers = (token_text(language_model.tokenizer, each.target) for each in (fact, other))
                pairs.append(Pair(fact.fact.prompt, other.fact.prompt, *answers))
    if not pairs:
        raise OptionError(
            "no two facts of one relation and template have subjects of as many tokens and different "
            "answers; give more facts, with templates"
        )
    return tuple(pairs)
