"""Visible text of tokens: characters that a screen hides or obeys become signs or escapes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_SIGNS = {"\n": "⏎", "\t": "⇥"}
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# Controls, format characters (bidi among them), surrogates, private use, and every other space.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"})
_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")


def visible(text: str) -> str:
    r"""Replace every hidden character by a visible one.

    Spaces at either end become `␣`, a newline `⏎`, a tab `⇥`; other characters without a shape
    (controls, zero-width and bidirectional marks, unusual spaces, lone surrogates, and U+FFFD,
    which stands for bytes that are not yet a character) become `\uXXXX`. A combining mark at the
    start stands on a dotted circle, and the empty text is `∅`.

    >>> visible(" Tokyo"), visible("\n\n"), visible("a\u202eb")
    ('␣Tokyo', '⏎⏎', 'a\\u202eb')
    """
    if _PLAIN.fullmatch(text):
        return text
    if not text:
        return "∅"
    inner = text.strip(" ")
    leading = len(text) - len(text.lstrip(" "))
    trailing = len(text) - leading - len(inner)
    shown = "".join(map(_visible_character, inner))
    if inner and unicodedata.category(inner[0]).startswith("M"):
        shown = "◌" + shown
    return "␣" * leading + shown + "␣" * trailing


def _visible_character(character: str) -> str:
    if character == " " or " " < character <= "~":
        return character
    if character in _SIGNS:
        return _SIGNS[character]
    hidden = unicodedata.category(character) in _HIDDEN_CATEGORIES
    if hidden or character == "\ufffd" or character in _BLANK_LETTERS:
        code = ord(character)
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return character


def middle_left_out(widths: list[int], room: int) -> tuple[int, int]:
    """Count the items from the start and from the end of a list that fit.

    Args:
        widths: cells of each item.
        room: cells for all items.

    Returns:
        `(head, tail)`; `head + tail == len(widths)` if everything fits, else the tail is as long as the head
        or one longer and holds at least one item.
    """
    if sum(widths) <= room:
        return len(widths), 0
    head = tail = 0
    used = 0
    while head + tail < len(widths):
        from_end = tail <= head
        used += widths[len(widths) - 1 - tail] if from_end else widths[head]
        if used > room and tail:
            break
        head, tail = (head, tail + 1) if from_end else (head + 1, tail)
    return head, tail


_IN_ASCII = str.maketrans(
    {
        **dict(zip("␣∅◌│█▉▊▋▌▍▎▏▒░━╸╍", "_0o|#####:::=-=-~", strict=True)),
        **dict(zip("■▪□▫·▸−–…", "#+Oo.>--~", strict=True)),
        "⏎": "\\n",
        "⇥": "\\t",
        "∞": "inf",
        "→": "->",
        "±": "+-",
    }
)


def in_ascii(text: str) -> str:
    """Replace the signs that Mnemoscope draws with, for terminals without them."""
    return text.translate(_IN_ASCII)


_LONGEST_LABEL = 32


def shortened(text: str, room: int) -> str:
    """Leave out the middle of a text longer than `room` characters.

    >>> shortened("a very long token", 9)
    'a ve…oken'
    """
    if len(text) <= room:
        return text
    head = (room - 1) // 2
    return f"{text[:head]}…{text[len(text) - (room - 1 - head) :]}"


def unspaced(text: str) -> str:
    """Return visible text without spaces at its ends: few fonts have `␣`, and it changes a line's font."""
    return visible(text.strip(" ") or text)


def plain_token(token: str) -> str:
    """Return a token as a chart's label: unspaced, at most 32 characters."""
    return shortened(unspaced(token), _LONGEST_LABEL)


def at_position(position: int, token: str) -> str:
    """Return a label such as `3 Japan`; behind the number a right-to-left token does not move it."""
    return f"{position} {plain_token(token)}"


def token_list(tokens: Sequence[str], most: int) -> str:
    """Return the first tokens of a list, separated by two spaces."""
    return "  ".join(plain_token(token) for token in tokens[:most])
