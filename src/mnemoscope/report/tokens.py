"""Visible text of tokens: characters that a screen hides or obeys become signs or escapes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from mnemoscope.results.texts import CutToken, named_bytes

_SIGNS = {"\n": "⏎", "\t": "⇥", "\ufffd": "‹?›"}
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# Controls, format characters (bidi among them), surrogates, private use, and every other space.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"})
# Characters that XML 1.0 cannot hold, whatever their escape, and the one that its readers change.
_NOT_IN_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")


def visible(text: str) -> str:
    r"""Replace every hidden character by a visible one.

    Spaces at either end become `␣`, a newline `⏎`, a tab `⇥`; other characters without a shape
    (controls, zero-width and bidirectional marks, unusual spaces, lone surrogates, U+FFFF) become `\uXXXX`.
    U+FFFD, which stands for bytes of a character that is cut in two, becomes `‹?›`; a `CutToken` shows its
    bytes, and `token_labels` names those of a text's tokens. A combining mark at the start stands on a dotted
    circle, and the empty text is `∅`.

    >>> visible(" Tokyo"), visible("\n\n"), visible("a\u202eb")
    ('␣Tokyo', '⏎⏎', 'a\\u202eb')
    """
    if isinstance(text, CutToken):
        text = text.shown
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
    code = ord(character)
    hidden = unicodedata.category(character) in _HIDDEN_CATEGORIES or character in _BLANK_LETTERS
    if hidden or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:  # the last two are no characters
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return character


def xml_text(text: str) -> str:
    r"""Write characters that XML cannot hold as `\uXXXX`."""
    return _NOT_IN_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def token_labels(tokens: Sequence[str], text: str) -> tuple[str, ...]:
    """Return the visible text of each token, with the bytes of characters that are cut in two.

    The bytes are taken from the text that the tokens make up. The token that completes a character also names
    it: `日` in two tokens is `‹E6 97›` and `‹A5 = 日›`. Tokens that the text does not have (special tokens)
    are shown as they are.
    """
    content = text.encode("utf-8", "surrogatepass")
    starts = _aligned(tokens, content) if any("\ufffd" in token for token in tokens) else None
    if starts is None:
        return tuple(map(visible, tokens))
    return tuple(
        _with_bytes(content, start, end) if "\ufffd" in token and end > start else visible(token)
        for token, start, end in zip(tokens, starts[:-1], starts[1:], strict=True)
    )


def _aligned(tokens: Sequence[str], content: bytes) -> list[int] | None:
    """Return the first byte of each token and the end of the last; None if they do not make the text."""
    before: list[dict[int, int]] = []  # by token: the places where it may end, each with its start
    places = {0}
    for token in tokens:
        ends: dict[int, int] = {}
        for place in sorted(places):
            for end in _ends(token, content, place):
                ends.setdefault(end, place)
        ends = ends or {place: place for place in places}
        before.append(ends)
        places = set(ends)
    if len(content) not in places:
        return None
    found = [len(content)]
    for ends in reversed(before):
        found.append(ends[found[-1]])
    return found[::-1]


def _ends(token: str, content: bytes, start: int) -> list[int]:
    """Return the places where a token that begins at a byte may end."""
    if "\ufffd" in token:
        lengths = range(1, 4 * len(token) + 1)
        return [
            start + n
            for n in lengths
            if start + n <= len(content) and content[start : start + n].decode("utf-8", "replace") == token
        ]
    plain = token.encode("utf-8", "surrogatepass")
    forms = (plain, plain.removeprefix(b" "))
    return [start + len(form) for form in forms if content.startswith(form, start)][:1]


def _with_bytes(content: bytes, start: int, end: int) -> str:
    """Write the bytes from `start` to `end`: whole characters visible, parts of one as `‹E6 97›`."""
    first, shown, whole = start, "", ""
    while first < end:
        begin = first
        while begin and content[begin] & 0xC0 == 0x80:
            begin -= 1
        stop = first + 1
        while stop < len(content) and content[stop] & 0xC0 == 0x80:
            stop += 1
        if begin == first and stop <= end:
            whole += content[first:stop].decode("utf-8", "replace")
        else:
            part = named_bytes(content[first : min(stop, end)])
            joined = visible(content[begin:stop].decode("utf-8", "replace")) if stop <= end else ""
            shown += (visible(whole) if whole else "") + (f"{part[:-1]} = {joined}›" if joined else part)
            whole = ""
        first = stop
    return shown + (visible(whole) if whole else "")


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
        "‹": "<",
        "›": ">",
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
