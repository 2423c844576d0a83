"""Checked access to the fields of items, the facts made of them, and the description of a format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mnemoscope.study.facts import Fact

RELATION_KEYS = ("relation", "type", "knowledge_type")
Row = dict[str, Any]
SEPARATOR = "|"  # between several texts in one cell of a CSV file


def text(row: Row, key: str) -> str:
    """Return a required text; raise ValueError if it is absent, blank or no text."""
    return checked(_required(row, key), key)


def optional(row: Row, key: str) -> str:
    """Return a text, or "" if it is absent; raise ValueError if it is blank or no text."""
    return "" if row.get(key) is None else checked(row[key], key)


def texts(row: Row, key: str) -> tuple[str, ...]:
    """Return the texts of a list, or of a text separated by `|`, not blank; raise ValueError otherwise."""
    value = row.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part.strip() for part in value.split(SEPARATOR)]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError(f'its "{key}" is no list of texts; write one like ["Paris", "Paname"]')
    return tuple(checked(part, key) for part in value if part.strip())


def child(row: Row, key: str) -> Row:
    """Return a required object within an item; raise ValueError if it is absent or something else."""
    if not isinstance(_required(row, key), dict):
        raise ValueError(f'its "{key}" is not an object; write it in braces')
    return row[key]


def children(row: Row, key: str) -> list[Row]:
    """Return a list of objects within an item, empty if absent; raise ValueError for something else."""
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise ValueError(f'its "{key}" is no list of objects; write objects in brackets')
    return value


def relation(row: Row, given: str | None, keys: Iterable[str] = RELATION_KEYS) -> str:
    """Return the relation that an item names, or else the given one; raise ValueError if there is neither."""
    found = own_relation(row, keys) or given
    if not found:
        first, *others = (f'"{key}"' for key in keys)
        or_others = f" (nor {' nor '.join(others)})" if others else ""
        raise ValueError(
            f'it has no {first}{or_others}; add one, such as {first}: "capital", or name one for all '
            "that have none with relation=, which is --relation of `mnemoscope methods` and of "
            "`mnemoscope study run`"
        )
    return found


def own_relation(row: Row, keys: Iterable[str] = RELATION_KEYS) -> str:
    """Return the text of the first present key, else ""; raise ValueError if it is blank or no text."""
    return next((checked(row[key], key) for key in keys if row.get(key) is not None), "")


def filled(template: str, subject: str) -> str:
    """Put a subject into a template; raise ValueError if it has no `{}`."""
    if "{}" not in template:
        raise ValueError(
            f"the wording {template!r} has no {{}} for the subject; write it where the subject stands"
        )
    return template.replace("{}", subject)


def checked(value: Any, key: str) -> str:
    """Return a value that is a text; raise ValueError if it is none, blank, or invalid Unicode."""
    if not isinstance(value, str):
        raise ValueError(f'its "{key}" is not a text; write it as one, in double quotes in JSON')
    if not value.strip():
        raise ValueError(f'its "{key}" is empty; fill it in, or leave this out of the file')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'its "{key}" holds half of a surrogate pair; give valid Unicode text') from error
    return value


def _required(row: Row, key: str) -> Any:
    if row.get(key) is None:
        raise ValueError(f'it has no "{key}"; add it, or leave this out of the file')
    return row[key]


def fact_of(
    prompt: str,
    target: str,
    relation: str,
    subject: str = "",
    template: str = "",
    aliases: tuple[str, ...] = (),
) -> Fact:
    """Make a fact without repeated aliases; `read_facts` numbers and places it."""
    others = tuple(alias for alias in dict.fromkeys(aliases) if alias != target)
    return Fact(0, prompt, target, relation, subject, template, others)


@dataclass(frozen=True)
class FormatOptions:
    """Options of a user about the facts to read.

    Attributes:
        relation: of facts for which the source names none.
        question_template: prompt of a question, with `{question}` in its place.
    """

    relation: str | None
    question_template: str


@dataclass(frozen=True)
class Format:
    """Format of the items of a source.

    Attributes:
        name: its identifier.
        example: an item, for messages.
        keys: all keys that are read of an item; other columns of a table are not fetched.
        recognises: returns whether an item has this format.
        facts: makes the facts of an item, not numbered yet, or raises ValueError with the reason.
    """

    name: str
    example: str
    keys: frozenset[str]
    recognises: Callable[[Row], bool]
    facts: Callable[[Row, FormatOptions], list[Fact]]
