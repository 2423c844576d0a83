"""Items of a source and their fields, each to become facts or a bad line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mnemoscope.study.facts import Fact

RELATION_KEYS = ("relation", "type", "knowledge_type")
# Parts a list of texts where there is room for one text only, as in a cell of a CSV file.
SEPARATOR = "|"


def text(row: dict[str, Any], key: str) -> str:
    """A text that must be there.

    Raises:
        ValueError: it is absent, null, empty or no text.
    """
    if row.get(key) is None:
        raise ValueError(f'it has no "{key}"; add it, or leave this out of the file')
    return checked(row[key], key)


def optional(row: dict[str, Any], key: str) -> str:
    """A text that may be absent, and is then empty.

    Raises:
        ValueError: it is there and blank or no text.
    """
    return "" if row.get(key) is None else checked(row[key], key)


def texts(row: dict[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts, or a text of several parted by `|`; blank ones and an absent list are left out.

    Raises:
        ValueError: it is something else.
    """
    value = row.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part.strip() for part in value.split(SEPARATOR)]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError(f'its "{key}" is no list of texts; write one like ["Paris", "Paname"]')
    return tuple(checked(part, key) for part in value if part.strip())


def child(row: dict[str, Any], key: str) -> dict[str, Any]:
    """An object within an item.

    Raises:
        ValueError: it is absent or something else.
    """
    if row.get(key) is None:
        raise ValueError(f'it has no "{key}"; add it, or leave this out of the file')
    if not isinstance(row[key], dict):
        raise ValueError(f'its "{key}" is not an object; write it in braces')
    return row[key]


def children(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects within an item; empty if it is absent.

    Raises:
        ValueError: it is something else.
    """
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise ValueError(f'its "{key}" is no list of objects; write objects in brackets')
    return value


def relation(row: dict[str, Any], given: str | None, keys: Iterable[str] = RELATION_KEYS) -> str:
    """The relation that an item names, or else the one given for those that name none.

    Raises:
        ValueError: there is neither.
    """
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


def own_relation(row: dict[str, Any], keys: Iterable[str] = RELATION_KEYS) -> str:
    """What the first of some keys says; empty if none does.

    Raises:
        ValueError: that is blank or no text.
    """
    return next((checked(row[key], key) for key in keys if row.get(key) is not None), "")


def filled(template: str, subject: str) -> str:
    """A wording with the subject in it.

    Raises:
        ValueError: it has no place for one.
    """
    if "{}" not in template:
        raise ValueError(
            f"the wording {template!r} has no {{}} for the subject; write it where the subject stands"
        )
    return template.replace("{}", subject)


def checked(value: Any, key: str) -> str:
    """A value that must be a text.

    Raises:
        ValueError: it is none, blank, or no valid Unicode.
    """
    if not isinstance(value, str):
        raise ValueError(f'its "{key}" is not a text; write it as one, in double quotes in JSON')
    if not value.strip():
        raise ValueError(f'its "{key}" is empty; fill it in, or leave this out of the file')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'its "{key}" holds half of a surrogate pair; give valid Unicode text') from error
    return value


@dataclass(frozen=True)
class SourceItem:
    """One of the things that a source holds.

    Attributes:
        number: counted from 1 in its file.
        value: as JSON would give it.
        problem: why there is no value; empty if there is one.
        promptless: whether the problem is nobody's mistake: it is well written, but gives no prompt.
        unit: what the number counts.
        file: its file, where the source is a folder.
    """

    number: int
    value: Any = None
    problem: str = ""
    promptless: bool = False
    unit: str = "line"
    file: str = ""

    @property
    def place(self) -> str:
        """Where it is in the source, in words."""
        return f"{self.file}, {self.unit} {self.number}" if self.file else f"{self.unit} {self.number}"

    def fact(
        self,
        prompt: str,
        target: str,
        relation: str,
        subject: str = "",
        template: str = "",
        aliases: tuple[str, ...] = (),
    ) -> Fact:
        """A fact of this item; aliases that repeat the target or each other are taken once."""
        others = tuple(alias for alias in dict.fromkeys(aliases) if alias != target)
        return Fact(self.number, prompt, target, relation, subject, template, others, self.place)


@dataclass(frozen=True)
class FormatOptions:
    """What a user may set about the facts to be made.

    Attributes:
        relation: of facts for which the source names none.
        question_template: the prompt of a question, which stands for `{question}` in it.
    """

    relation: str | None
    question_template: str


@dataclass(frozen=True)
class Format:
    """A way to write facts down.

    Attributes:
        name: by which it can be asked for.
        example: an item of it, for messages.
        keys: all that is read of an item; other columns of a table need not be fetched.
        recognises: whether an item looks like one of this format.
        facts: those of an item; a `ValueError` has the reason why there are none.
    """

    name: str
    example: str
    keys: frozenset[str]
    recognises: Callable[[dict[str, Any]], bool]
    facts: Callable[[SourceItem, FormatOptions], list[Fact]]
