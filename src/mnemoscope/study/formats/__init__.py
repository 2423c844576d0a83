"""Facts of a file, a folder or a data set on the hub, in the formats that researchers use."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mnemoscope._rows import PREFIX, SourceItem, file_items, hub_rows, json_document, opened
from mnemoscope.errors import FactsError, OptionError
from mnemoscope.study.facts import BadLine, Fact, FactFile
from mnemoscope.study.formats.base import Format, FormatOptions
from mnemoscope.study.formats.datasets import (
    COUNTERFACT,
    FACTS,
    FREEBASEQA,
    KNOWN,
    LRE,
    PARAREL,
    QUESTION_TEMPLATE,
    QUESTIONS,
    TRIVIAQA,
    check_template,
    is_pararel,
    pararel_items,
)

FORMATS: dict[str, Format] = {
    form.name: form for form in (FACTS, KNOWN, COUNTERFACT, LRE, PARAREL, QUESTIONS, TRIVIAQA, FREEBASEQA)
}


_LOOKED_AT = 100  # items at most, until one has a known format
_LISTED = 3  # bad lines in a message


def read_facts(
    source: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - what it is called everywhere
    relation: str | None = None,
    question_template: str = QUESTION_TEMPLATE,
    strict: bool = False,
) -> FactFile:
    """Read facts from a file, a folder or a data set of the hub (docs/facts_formats.md).

    The ending or the first bytes of a file select JSON lines, JSON, CSV, TSV or Parquet; the first item of a
    known format selects the format. Bad lines are returned beside the facts.

    Args:
        source: a file, a folder of LRE relations or of ParaRel, or `hub:owner/name:config:split`.
        format: name of one of `FORMATS`. Default: recognised from the items.
        relation: of facts for which the source names none; questions need none, and then compete with none.
        question_template: prompt of a question, with `{question}` in its place.
        strict: refuse a source with a bad line.

    Raises:
        FactsError: the source cannot be read, has no fact, no single format, or a bad line under `strict`.
        OptionError: the format is unknown, the relation empty, or the template has no `{question}`.
    """
    if relation is not None and not relation.strip():
        raise OptionError("the relation is empty; name one, such as capital, or leave it out")
    options = FormatOptions(relation, check_template(question_template))
    if format is not None and format not in FORMATS:
        raise OptionError(f"there is no format {format!r}; give one of {', '.join(FORMATS)}")
    chosen, items = _open(source, FORMATS[format] if format is not None else None)
    facts: list[Fact] = []
    bad_lines: list[BadLine] = []
    promptless: list[BadLine] = []
    for item in items:
        try:
            if item.problem:
                raise ValueError(item.problem)
            if not isinstance(item.value, dict):
                raise ValueError(f"it is not an object; write one like {chosen.example}")
            found = chosen.facts(item.value, options)
            facts += [replace(fact, line=item.number, place=item.place) for fact in found]
        except ValueError as error:
            bad = BadLine(item.number, str(error), item.place)
            (promptless if item.promptless else bad_lines).append(bad)
    listed = [f"{bad.where}: {bad.reason}" for bad in bad_lines[:_LISTED]]
    if strict and bad_lines:
        more = f"; and {len(bad_lines) - _LISTED:,} more" if len(bad_lines) > _LISTED else ""
        raise FactsError(
            f"{source} has bad lines: {'; '.join(listed)}{more}; mend them, or have them left out"
        )
    if not facts and bad_lines:
        raise FactsError(f"no fact in {source}: none of its {len(bad_lines):,} lines is good; {listed[0]}")
    if not facts:
        raise FactsError(f"no fact in {source}: it is empty; write lines like {chosen.example}")
    if len({fact.line for fact in facts}) < len(facts):  # an item with several facts: number them anew
        facts = [replace(fact, line=number) for number, fact in enumerate(facts, 1)]
    return FactFile(tuple(facts), tuple(bad_lines), tuple(promptless))


def _open(source: str | Path, asked: Format | None) -> tuple[Format, Iterator[SourceItem]]:
    """Return the format of a source and its items."""
    folder = None if str(source).startswith(PREFIX) else Path(source).expanduser()
    try:
        is_folder = folder is not None and folder.is_dir()
    except (OSError, ValueError):  # the reason is in the error of opening it
        is_folder = False
    if folder is not None and is_folder:
        return _open_folder(folder, asked)
    keys = frozenset[str]().union(*(form.keys for form in FORMATS.values())) if asked is None else asked.keys
    if asked is PARAREL:
        raise FactsError(f"{source} is no folder, and ParaRel is {PARAREL.example}")
    items = hub_rows(str(source), keys) if folder is None else file_items(folder, keys)
    return (asked, items) if asked is not None else _recognised(source, items)


def _open_folder(folder: Path, asked: Format | None) -> tuple[Format, Iterator[SourceItem]]:
    chosen = asked or (PARAREL if is_pararel(folder) else LRE)
    if chosen is PARAREL and is_pararel(folder):
        return PARAREL, pararel_items(folder)
    if chosen is LRE and any(folder.rglob("*.json")):
        return LRE, _lre_items(folder)
    raise FactsError(
        f"the folder {folder} has no relations to read; name a file, a folder of LRE relations (*.json), or "
        f"{PARAREL.example}"
    )


def _lre_items(folder: Path) -> Iterator[SourceItem]:
    for path in sorted(folder.rglob("*.json")):
        with opened(path) as stream:
            for item in json_document(stream):
                yield replace(item, file=str(path.relative_to(folder)))


def _recognised(source: str | Path, items: Iterator[SourceItem]) -> tuple[Format, Iterator[SourceItem]]:
    """Return the format of the first item that has one, and all items."""
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
    keys = "the keys " + ", ".join(map(repr, list(objects[0])[:8])) if objects[0] else "no keys"
    raise FactsError(
        f"{source} is of no format that is known: its first item has {keys}; name one of "
        f"{', '.join(FORMATS)}, or write lines like {FORMATS['facts'].example}"
    )
