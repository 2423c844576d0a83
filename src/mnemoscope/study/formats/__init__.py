"""Facts of a file, a folder or a data set on the hub, in the formats that researchers use."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnemoscope.errors import FactsError, OptionError
from mnemoscope.study.facts import BadLine, Fact, FactFile
from mnemoscope.study.formats.base import Format, FormatOptions, SourceItem
from mnemoscope.study.formats.files import PREFIX, file_items, hub_rows, json_document, opened
from mnemoscope.study.formats.questions import (
    FREEBASEQA,
    QUESTION_TEMPLATE,
    QUESTIONS,
    TRIVIAQA,
    check_template,
)
from mnemoscope.study.formats.relations import (
    COUNTERFACT,
    FACTS,
    KNOWN,
    LRE,
    PARAREL,
    is_pararel,
    pararel_items,
)

FORMATS: dict[str, Format] = {
    form.name: form for form in (FACTS, KNOWN, COUNTERFACT, LRE, PARAREL, QUESTIONS, TRIVIAQA, FREEBASEQA)
}


# A format is told by the first item that is of one; a file may begin with a few that are none.
_LOOKED_AT = 100
_TOLD = 3


def read_facts(
    source: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - what it is called everywhere
    relation: str | None = None,
    question_template: str = QUESTION_TEMPLATE,
    strict: bool = False,
) -> FactFile:
    """Read facts.

    Files may be JSON lines, JSON documents, CSV, TSV or Parquet, told by their ending or by how they begin;
    what their items mean is told by the first that is of a known format (docs/facts_formats.md). One bad
    line must not cost a study of thousands, so it is set aside and told.

    Args:
        source: a file; a folder of LRE relations or of ParaRel; or a data set on the hub, as
            `hub:owner/name:config:split`.
        format: name of one of `FORMATS`, where it cannot be told.
        relation: of facts for which the source names none. Questions may have none: they then compete with
            no other.
        question_template: the prompt that a question is put in, in the place of `{question}`.
        strict: refuse a source with a bad line.

    Raises:
        FactsError: the source cannot be read, is of no format or of several, has no fact, or has a bad line
            and `strict` is set.
        OptionError: there is no such format, the relation is empty, or the template has no place for a
            question.
    """
    if relation is not None and not relation.strip():
        raise OptionError("the relation is empty; name one, such as capital, or leave it out")
    options = FormatOptions(relation, check_template(question_template))
    chosen, items = _found(source, None if format is None else _named(format))
    facts: list[Fact] = []
    bad_lines: list[BadLine] = []
    promptless: list[BadLine] = []
    for item in items:
        try:
            facts += _facts(chosen, item, options)
        except ValueError as error:
            bad = BadLine(item.number, str(error), item.place)
            (promptless if item.promptless else bad_lines).append(bad)
    if strict and bad_lines:
        raise FactsError(_refused(source, bad_lines))
    if not facts:
        raise FactsError(_no_fact(source, chosen, bad_lines))
    return FactFile(_numbered(facts), tuple(bad_lines), tuple(promptless))


def _named(name: str) -> Format:
    if name not in FORMATS:
        raise OptionError(f"there is no format {name!r}; give one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _found(source: str | Path, asked: Format | None) -> tuple[Format, Iterator[SourceItem]]:
    """The format of a source and what it holds."""
    folder = None if str(source).startswith(PREFIX) else Path(source).expanduser()
    if folder is not None and _is_folder(folder):
        return _in_folder(folder, asked)
    keys = frozenset[str]().union(*(form.keys for form in FORMATS.values())) if asked is None else asked.keys
    if asked is PARAREL:
        raise FactsError(f"{source} is no folder, and ParaRel is {PARAREL.example}")
    items = hub_rows(str(source), keys) if folder is None else file_items(folder, keys)
    return (asked, items) if asked is not None else _recognised(source, items)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # the reason is told where it is opened
        return False


def _in_folder(folder: Path, asked: Format | None) -> tuple[Format, Iterator[SourceItem]]:
    chosen = asked or (PARAREL if is_pararel(folder) else LRE)
    if chosen is PARAREL and is_pararel(folder):
        return PARAREL, pararel_items(folder)
    if chosen is LRE and any(folder.rglob("*.json")):
        return LRE, _relation_files(folder)
    raise FactsError(
        f"the folder {folder} has no relations to read; name a file, a folder of LRE relations (*.json), or "
        f"{PARAREL.example}"
    )


def _relation_files(folder: Path) -> Iterator[SourceItem]:
    for path in sorted(folder.rglob("*.json")):
        with opened(path) as stream:
            for item in json_document(stream):
                yield replace(item, file=str(path.relative_to(folder)))


def _recognised(source: str | Path, items: Iterator[SourceItem]) -> tuple[Format, Iterator[SourceItem]]:
    """The format of the first item that is of one, and all items."""
    first = list(itertools.islice(items, _LOOKED_AT))
    objects = [item.value for item in first if isinstance(item.value, dict)]
    for row in objects:
        matches = [form for form in FORMATS.values() if form.recognises(row)]
        if len(matches) > 1:
            raise FactsError(
                f"{source} may be of the formats {' or '.join(form.name for form in matches)}; say which"
            )
        if matches:
            return matches[0], itertools.chain(first, items)
    if not objects:
        return FORMATS["facts"], itertools.chain(first, items)
    raise FactsError(
        f"{source} is of no format that is known: its first item has {_keys(objects[0])}; name one of "
        f"{', '.join(FORMATS)}, or write lines like {FORMATS['facts'].example}"
    )


def _keys(row: dict[str, Any]) -> str:
    return "the keys " + ", ".join(map(repr, list(row)[:8])) if row else "no keys"


def _facts(form: Format, item: SourceItem, options: FormatOptions) -> Iterable[Fact]:
    if item.problem:
        raise ValueError(item.problem)
    if not isinstance(item.value, dict):
        raise ValueError(f"it is not an object; write one like {form.example}")
    return form.facts(item, options)


def _numbered(facts: list[Fact]) -> tuple[Fact, ...]:
    """The facts by the numbers of their items, or counted through where two would share one."""
    if len({fact.line for fact in facts}) == len(facts):
        return tuple(facts)
    return tuple(replace(fact, line=number) for number, fact in enumerate(facts, 1))


def _told(bad_lines: list[BadLine]) -> str:
    return "; ".join(f"{bad.where}: {bad.reason}" for bad in bad_lines[:_TOLD])


def _refused(source: str | Path, bad_lines: list[BadLine]) -> str:
    more = f"; and {len(bad_lines) - _TOLD:,} more" if len(bad_lines) > _TOLD else ""
    return f"{source} has bad lines: {_told(bad_lines)}{more}; mend them, or have them left out"


def _no_fact(source: str | Path, form: Format, bad_lines: list[BadLine]) -> str:
    if not bad_lines:
        return f"no fact in {source}: it is empty; write lines like {form.example}"
    return f"no fact in {source}: none of its {len(bad_lines):,} lines is good; {_told(bad_lines[:1])}"
