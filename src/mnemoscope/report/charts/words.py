"""Words on charts: tokens with their positions, what a chart is about, what its numbers are."""

from __future__ import annotations

from collections.abc import Sequence

from mnemoscope.report.text import Effects, targets_words
from mnemoscope.report.tokens import visible
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.targets import Targets

_LONGEST_LABEL = 32
_LONGEST_PROMPT = 90


def shortened(text: str, room: int) -> str:
    """A text with its middle left out where it is longer than the room, in characters.

    >>> shortened("a very long token", 9)
    'a ve…oken'
    """
    if len(text) <= room:
        return text
    head = (room - 1) // 2
    return f"{text[:head]}…{text[len(text) - (room - 1 - head) :]}"


def plain_token(token: str) -> str:
    """A token without the space before it; the sign for it is in few fonts, and turns a line into another."""
    return shortened(visible(token.strip(" ") or token), _LONGEST_LABEL)


def at_position(position: int, token: str) -> str:
    """Such as `3 Japan`; the number is first, so that a token from right to left does not move it."""
    return f"{position} {plain_token(token)}"


def token_list(tokens: Sequence[str], most: int) -> str:
    """The first of several tokens, told apart by two spaces."""
    return "  ".join(plain_token(token) for token in tokens[:most])


def about(prompt: str, targets: Targets) -> str:
    """Prompt and target in one line."""
    shown = (visible(prompt.strip(" ") or prompt), targets_words(targets))
    return " → ".join(shortened(text, _LONGEST_PROMPT) for text in shown)


def effect_title(result: Attribution) -> str:
    """What the numbers of a chart are, for its axis."""
    effects = Effects.of(result)
    return f"{effects.name} effect on {effects.value} (nats)"
