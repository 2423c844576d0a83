"""The paper's filter of facts that the model knows, with reasons (docs/method.md#experiments)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from mnemoscope.api import Model
from mnemoscope.model.tokens import token_text
from mnemoscope.study.facts import Fact, ResolvedFact, Verdict, answers_of, judged
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.schema import FACTS


def judged_facts(
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
    verdicts = judged(model.language_model, readable, options.rank, options.rivals, answers)
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


def _found(model: Model, verdict: Verdict | None, why_unread: str) -> dict[str, object]:
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
