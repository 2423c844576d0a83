"""Facts to study, as prompts and tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from mnemoscope.errors import OptionError, PromptError, TargetError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import Prompt, as_a_word, encode_continuation, encode_prompt


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


RELATIONS = ("language", "capital", "country", "color", "number", "month")


def builtin_facts(relations: Sequence[str] | None = None) -> tuple[Fact, ...]:
    """Every subject in every wording (docs/method.md#experiments); `docs/facts.md` is the datasheet.

    Args:
        relations: types of knowledge, of `RELATIONS`; None for all six.

    Returns:
        The facts in the order of the file. A fact's `line` is its number in the whole set, from 1,
        the same whichever relations are chosen.

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
    asked = (
        (question["name"], sample, template)
        for question in json.loads(text)["relations"]
        for sample in question["samples"]
        for template in question["prompt_templates"]
    )
    return tuple(
        Fact(
            line,
            template.replace("{}", sample["subject"]),
            sample["object"],
            relation,
            sample["subject"],
            template,
            tuple(sample.get("aliases", ())),
        )
        for line, (relation, sample, template) in enumerate(asked, 1)
    )
