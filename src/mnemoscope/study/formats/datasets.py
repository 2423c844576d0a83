"""Formats of published sets: prompts, relations (ROME, LRE, ParaRel), questions with answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mnemoscope._rows import SourceItem, json_lines, opened
from mnemoscope.errors import OptionError
from mnemoscope.study.facts import Fact
from mnemoscope.study.formats import base as fields
from mnemoscope.study.formats.base import Format, FormatOptions, Row

_WIKIDATA = ("relation_id",)


def _of_row(row: Row, options: FormatOptions) -> list[Fact]:
    return [
        fields.fact_of(
            fields.text(row, "prompt"),
            fields.text(row, "target"),
            fields.relation(row, options.relation),
            fields.optional(row, "subject"),
            fields.optional(row, "template"),
            fields.texts(row, "aliases"),
        )
    ]


def _known(row: Row, options: FormatOptions) -> list[Fact]:
    subject, template = fields.text(row, "subject"), fields.optional(row, "template")
    prompt = fields.text(row, "prompt")
    # The prompt goes on where the template ends: "{} is in the continent", "Peru is in the continent of".
    beginning = template.replace("{}", subject)
    asked = template + prompt.removeprefix(beginning) if prompt.startswith(beginning) and template else ""
    relation = fields.relation(row, options.relation, _WIKIDATA)
    return [fields.fact_of(prompt, fields.text(row, "attribute"), relation, subject, asked)]


def _counterfact(row: Row, options: FormatOptions) -> list[Fact]:
    if "requested_rewrite" not in row:
        return [_flat_counterfact(row, options)]
    asked = fields.child(row, "requested_rewrite")
    subject, template = fields.text(asked, "subject"), fields.text(asked, "prompt")
    target = fields.text(fields.child(asked, "target_true"), "str")
    relation = fields.relation(asked, options.relation, _WIKIDATA)
    wordings = {fields.filled(template, subject): template}
    for prompt in fields.texts(row, "paraphrase_prompts"):
        wordings.setdefault(prompt, _wording(prompt, subject))
    return [
        fields.fact_of(prompt, target, relation, subject, wording) for prompt, wording in wordings.items()
    ]


def _flat_counterfact(row: Row, options: FormatOptions) -> Fact:
    """Make the fact of a flat row, as in the hub's copies for causal tracing."""
    prompt, subject = fields.text(row, "prompt"), fields.text(row, "subject")
    relation = fields.relation(row, options.relation, _WIKIDATA)
    return fields.fact_of(
        prompt, fields.text(row, "target_true"), relation, subject, _wording(prompt, subject)
    )


def _wording(prompt: str, subject: str) -> str:
    return prompt.replace(subject, "{}") if subject in prompt else ""


FACTS = Format(
    "facts",
    '{"prompt": "The capital of France is", "target": "Paris", "relation": "capital"}',
    frozenset({"prompt", "target", *fields.RELATION_KEYS, "subject", "template", "aliases"}),
    lambda row: {"prompt", "target"} <= row.keys(),
    _of_row,
)
KNOWN = Format(
    "known_1000",
    '{"subject": "MacApp", "attribute": "Apple", "prompt": "MacApp, created by", "relation_id": "P178"}',
    frozenset({"prompt", "subject", "attribute", "template", "relation_id"}),
    lambda row: {"prompt", "attribute"} <= row.keys(),
    _known,
)
COUNTERFACT = Format(
    "counterfact",
    '{"requested_rewrite": {"prompt": "{} is in", "subject": "Lyon", "target_true": {"str": "France"}, '
    '"relation_id": "P17"}}',
    frozenset({"requested_rewrite", "paraphrase_prompts", "prompt", "subject", "target_true", "relation_id"}),
    lambda row: "requested_rewrite" in row or {"prompt", "target_true"} <= row.keys(),
    _counterfact,
)


PARAREL_DATA = "trex_lms_vocab"
PARAREL_PATTERNS = "graphs"
_ENDS_IN_OBJECT = re.compile(r"(?P<before>.*\[X\].*?)\s*\[Y\][\s.,;:!?]*", re.DOTALL)


def _relation(row: Row, options: FormatOptions) -> list[Fact]:
    subject, target = fields.text(row, "subject"), fields.text(row, "object")
    relation = fields.relation(row, options.relation, ("name",))
    templates = dict.fromkeys(fields.texts(row, "prompt_templates"))
    if not templates:
        raise ValueError('its relation has no "prompt_templates"; add wordings with {} for the subject')
    return [
        fields.fact_of(fields.filled(template, subject), target, relation, subject, template)
        for template in templates
    ]


def _pararel(row: Row, _: FormatOptions) -> list[Fact]:
    subject, target = fields.text(row, "sub_label"), fields.text(row, "obj_label")
    return [
        fields.fact_of(fields.filled(template, subject), target, row["relation"], subject, template)
        for template in row["templates"]
    ]


def pararel_items(folder: Path) -> Iterator[SourceItem]:
    """Yield items of a folder of ParaRel: patterns without a prompt, and each subject with all templates."""
    patterns = {path.stem: path for path in _pattern_files(folder)}
    for data in _data_files(folder):
        name = str(data.relative_to(folder))
        if data.stem not in patterns:
            wanted = f"{PARAREL_PATTERNS}*/{data.name}"
            yield SourceItem(1, problem=f"its relation has no patterns; put them in {wanted}", file=name)
            continue
        of_relation = patterns[data.stem]
        with opened(of_relation) as stream:
            found = [_template(item, str(of_relation.relative_to(folder))) for item in json_lines(stream)]
        yield from (item for item in found if isinstance(item, SourceItem))
        templates = list(dict.fromkeys(template for template in found if isinstance(template, str)))
        with opened(data) as stream:
            for item in json_lines(stream):
                if isinstance(item.value, dict):
                    more = {"relation": data.stem, "templates": templates}
                    yield replace(item, value={**item.value, **more}, file=name)
                else:
                    yield replace(item, file=name)


def is_pararel(folder: Path) -> bool:
    """Return whether a folder has both kinds of files of ParaRel."""
    return bool(_pattern_files(folder) and _data_files(folder))


def _data_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.jsonl") if path.parent.name == PARAREL_DATA)


def _pattern_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.jsonl") if path.parent.name.startswith(PARAREL_PATTERNS))


def _template(item: SourceItem, file: str) -> str | SourceItem:
    """Return the template that a pattern gives, or an item with the reason why it gives none."""
    if item.problem:
        return replace(item, file=file)
    try:
        if not isinstance(item.value, dict):
            raise ValueError('it is not an object; write one like {"pattern": "[X] is in [Y]."}')
        pattern = fields.text(item.value, "pattern")
    except ValueError as error:
        return replace(item, problem=str(error), file=file)
    found = _ENDS_IN_OBJECT.fullmatch(pattern)
    if found is None or "[Y]" in found["before"]:
        reason = f"the pattern {pattern!r} does not end in its only [Y], so no text before it is a prompt"
        return replace(item, problem=reason, promptless=True, file=file)
    return found["before"].replace("[X]", "{}")


LRE = Format(
    "lre",
    '{"name": "capital", "prompt_templates": ["The capital of {} is"], '
    '"samples": [{"subject": "Peru", "object": "Lima"}]}',
    frozenset({"name", "prompt_templates", "subject", "object"}),
    lambda row: {"prompt_templates", "subject"} <= row.keys(),
    _relation,
)
PARAREL = Format(
    "pararel",
    f'a folder with {PARAREL_PATTERNS}*/P17.jsonl of {{"pattern": "[X] is in [Y]."}} and '
    f'{PARAREL_DATA}/P17.jsonl of {{"sub_label": "Lyon", "obj_label": "France"}}',
    frozenset({"sub_label", "obj_label", "relation", "templates"}),
    lambda row: {"sub_label", "templates"} <= row.keys(),
    _pararel,
)


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
    return fields.fact_of(
        prompt, answers[0], relation or options.relation or "", subject, aliases=answers[1:]
    )


def _of_line(row: Row, options: FormatOptions) -> list[Fact]:
    answers = row.get("answer")
    told = fields.texts(row, "answer") if isinstance(answers, list) else (fields.text(row, "answer"),)
    answers = (*told, *fields.texts(row, "aliases"))
    return [_fact(options, fields.text(row, "question"), answers, fields.own_relation(row))]


def _trivia(row: Row, options: FormatOptions) -> list[Fact]:
    names = ("Question", "Answer", "Value", "Aliases")
    question, answer, value, aliases = names if "Question" in row else tuple(map(str.lower, names))
    asked, told = fields.text(row, question), fields.child(row, answer)
    return [_fact(options, asked, (fields.text(told, value), *fields.texts(told, aliases)))]


def _freebase(row: Row, options: FormatOptions) -> list[Fact]:
    parses = fields.children(row, "Parses")
    answers = [
        name for parse in parses for answer in fields.children(parse, "Answers") for name in _names(answer)
    ]
    chain, topic = (
        next((found for parse in parses if (found := fields.optional(parse, key))), "")
        for key in ("InferentialChain", "TopicEntityName")
    )
    return [_fact(options, fields.text(row, "RawQuestion"), tuple(answers), chain, topic)]


def _names(answer: Row) -> tuple[str, ...]:
    name = answer.get("AnswersName")
    return (
        (fields.checked(name, "AnswersName"),)
        if isinstance(name, str)
        else fields.texts(answer, "AnswersName")
    )


def _is_trivia(row: Row) -> bool:
    return {"Question", "Answer"} <= row.keys() or ("question" in row and isinstance(row.get("answer"), dict))


QUESTIONS = Format(
    "questions",
    '{"question": "Of which country is Lusaka the capital?", "answer": "Zambia", "type": "country"}',
    frozenset({"question", "answer", "aliases", *fields.RELATION_KEYS}),
    lambda row: {"question", "answer"} <= row.keys() and not isinstance(row["answer"], dict),
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
