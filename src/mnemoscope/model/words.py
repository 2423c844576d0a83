"""Where running text puts a space before the next word.

Files of facts hold bare answers ("Paris"), and callers forget the space of a target. Tokenising prompt and
target together decides every token, but the text itself must say whether the two are parted by a space.
"""

from __future__ import annotations

import unicodedata

# Beginnings of the Unicode names of letters whose languages put no space before a word.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
_CLOSING = frozenset("?!;…%°)]}»”")
# Between two digits these are part of one number.
_IN_NUMBERS = frozenset(",:")
# Signs that stand between two words with a space on either side, or with none.
_SIGNS = "–—&|+→⇒←↔×÷≈"
_BETWEEN_WORDS = frozenset(_SIGNS)
_ARROWS = ("->", "=>")


def begins_new_word(text: str, target: str) -> bool:
    """Return whether a bare target is a word of its own, parted from the text by a space.

    True where the target begins with a letter or digit of a script that writes spaces, and the text ends in a
    letter, a digit, or punctuation that prose follows with a space (`,`, `:`, `?`, a closing bracket or
    double quote). After a full stop it is true of a capital (`St.` and `Paul`) but not of others (`math.` and
    `sqrt`). An arrow, a dash or `&` is followed by a space if it is preceded by one. False after white space,
    opening brackets and quotes, apostrophes, hyphens, and signs such as `/`, `@`, `=`, `#` and `$`.
    """
    if not target[:1].isalnum() or unicodedata.name(target[0], "").startswith(_UNSPACED) or not text:
        return False
    last, before = text[-1], text[-2:-1]
    if last in _IN_NUMBERS:
        return not (before.isdigit() and target[0].isdigit()) and before != last
    if last == ".":
        return text.endswith("...") or (target[0].isupper() and not before.isspace())
    if last == '"':
        return before.isalnum() or (before != "" and before in ".,!?;:)]}")
    if last in _BETWEEN_WORDS or text.endswith(_ARROWS):
        return text.rstrip(_SIGNS).rstrip("-=>")[-1:].isspace()
    return unicodedata.category(last)[0] in "LNM" or last in _CLOSING
