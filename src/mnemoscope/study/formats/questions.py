"""Formats of questions with answers; a template with worked questions makes prompts of them."""

from __future__ import annotations

from typing import Any

from mnemoscope.errors import OptionError
from mnemoscope.study.facts import Fact
from mnemoscope.study.formats import base as fields
from mnemoscope.study.formats.base import Format, FormatOptions, SourceItem

PLACE = "{question}"
QUESTION_TEMPLATE = (
    "Question: What do bees make?\nAnswer: honey\n\n"
    "Question: Which animal barks?\nAnswer: dog\n\n"
    f"Question: {PLACE}\nAnswer:"
)
# Answer of the hub's copy of TriviaQA where the true one is withheld.
_UNTOLD = "<unk>"


def check_template(template: str) -> str:
    """Return the template; raise OptionError unless it has `{question}` once."""
    if template.count(PLACE) != 1:
        raise OptionError(
            f"the question template has {template.count(PLACE)} places for a question; write {PLACE} in it "
            f"once, as in {'Question: {question} Answer:'!r}"
        )
    return template


def _fact(
    item: SourceItem,
    options: FormatOptions,
    question: str,
    answers: tuple[str, ...],
    relation: str = "",
    subject: str = "",
) -> Fact:
    """Make the fact of a question, which competes with no other unless it or the options name a relation."""
    if not answers:
        raise ValueError("it has no answer; add one, or leave this out of the file")
    if _UNTOLD in answers:
        raise ValueError("its answer is kept back, as in test sets; take a part of the data that has answers")
    prompt = options.question_template.replace(PLACE, question)
    return item.fact(prompt, answers[0], relation or options.relation or "", subject, aliases=answers[1:])


def _of_line(item: SourceItem, options: FormatOptions) -> list[Fact]:
    row = item.value
    answers = row.get("answer")
    told = fields.texts(row, "answer") if isinstance(answers, list) else (fields.text(row, "answer"),)
    answers = (*told, *fields.texts(row, "aliases"))
    return [_fact(item, options, fields.text(row, "question"), answers, fields.own_relation(row))]


def _trivia(item: SourceItem, options: FormatOptions) -> list[Fact]:
    row = item.value
    names = ("Question", "Answer", "Value", "Aliases")
    question, answer, value, aliases = names if "Question" in row else tuple(map(str.lower, names))
    asked, told = fields.text(row, question), fields.child(row, answer)
    return [_fact(item, options, asked, (fields.text(told, value), *fields.texts(told, aliases)))]


def _freebase(item: SourceItem, options: FormatOptions) -> list[Fact]:
    row = item.value
    parses = fields.children(row, "Parses")
    answers = [
        name for parse in parses for answer in fields.children(parse, "Answers") for name in _names(answer)
    ]
    chain, topic = (
        next((found for parse in parses if (found := fields.optional(parse, key))), "")
        for key in ("InferentialChain", "TopicEntityName")
    )
    return [_fact(item, options, fields.text(row, "RawQuestion"), tuple(answers), chain, topic)]


def _names(answer: dict[str, Any]) -> tuple[str, ...]:
    name = answer.get("AnswersName")
    return (
        (fields.checked(name, "AnswersName"),)
        if isinstance(name, str)
        else fields.texts(answer, "AnswersName")
    )


def _is_trivia(row: dict[str, Any]) -> bool:
    return {"Question", "Answer"} <= row.keys() or ("question" in row and isinstance(row.get("answer"), dict))


def _is_line(row: dict[str, Any]) -> bool:
    return {"question", "answer"} <= row.keys() and not isinstance(row["answer"], dict)


QUESTIONS = Format(
    "questions",
    '{"question": "Of which country is Lusaka the capital?", "answer": "Zambia", "type": "country"}',
    frozenset({"question", "answer", "aliases", *fields.RELATION_KEYS}),
    _is_line,
    _of_line,
)
TRIVIAQA = Format(
    "triviaqa",
    '{"Question": "Which country is Lusaka in?", "Answer": {"Value": "Zambia", "Aliases": ["ZM"]}}',
    frozenset({"Question", "Answer", "question", "answer"}),
    _is_trivia,
    _trivia,
)
FREEBASEQA = Format(
    "freebaseqa",
    '{"RawQuestion": "Which country is Lusaka in?", "Parses": [{"Answers": [{"AnswersName": ["zambia"]}]}]}',
    frozenset({"RawQuestion", "Parses"}),
    lambda row: {"RawQuestion", "Parses"} <= row.keys(),
    _freebase,
)
