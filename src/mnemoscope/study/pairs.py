"""Pairs of prompts for circuits, made of facts of one relation (docs/method.md#circuits)."""

from __future__ import annotations

from collections.abc import Iterable

from mnemoscope.errors import OptionError
from mnemoscope.model.encoding import token_text
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.circuit import Pair
from mnemoscope.study.facts import Fact, ResolvedFact, distinct, resolve


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
