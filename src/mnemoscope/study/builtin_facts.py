"""The package's own facts: the six types of knowledge of the paper, made by `docs/make_facts.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from mnemoscope.errors import OptionError
from mnemoscope.study.facts import Fact

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
