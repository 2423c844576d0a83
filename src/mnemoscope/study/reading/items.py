"""What a source holds one after another, each to become facts or a bad line, and how a format is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mnemoscope.study.facts import Fact


@dataclass(frozen=True)
class Item:
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
class Options:
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
    facts: Callable[[Item, Options], list[Fact]]
