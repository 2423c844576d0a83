"""Conversion of text to token ids and back, chat messages, and spaces between words.

Files of facts hold bare answers ("Paris"), and callers forget the space of a target. `begins_new_word`
decides from the text whether prompt and target are parted by a space; they are then tokenised together.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mnemoscope.errors import OptionError, PromptError
from mnemoscope.results.texts import CutToken

# Beginnings of the Unicode names of letters whose languages put no space before a word.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
_CLOSING = "?!;…%°)]}»”"
# Between two digits these are part of one number.
_IN_NUMBERS = ",:"
# Signs that stand between two words with a space on either side, or with none.
_SIGNS = "–—&|+→⇒←↔×÷≈"
_ARROWS = ("->", "=>")


def begins_new_word(text: str, target: str) -> bool:
    """Return whether a target without a space is a word of its own, parted from the text by a space.

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
    if last in _SIGNS or text.endswith(_ARROWS):
        return text.rstrip(_SIGNS).rstrip("-=>")[-1:].isspace()
    return unicodedata.category(last)[0] in "LNM" or last in _CLOSING


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool = True) -> list[int]:
    """Tokenise a text whose next token is predicted.

    Special tokens written in the text are single tokens. The special tokens that the tokenizer puts in front
    (usually the beginning-of-sequence token, BOS) are added once: not those that the text begins with.
    Special tokens that the tokenizer appends (an end token) are left out, because the next token would be
    predicted after them.

    Args:
        tokenizer: of the model.
        text: valid Unicode.
        add_special_tokens: False leaves out all that the text does not write.

    Raises:
        PromptError: the tokenizer gives the text other tokens of its own when it adds special tokens.
    """
    own = list(tokenizer(text, add_special_tokens=False).input_ids)
    if not add_special_tokens:
        return own
    full = list(tokenizer(text).input_ids)
    front = front_tokens(tokenizer)
    if full[: len(front)] != front or full[len(front) : len(front) + len(own)] != own:
        raise PromptError(_CUT_ANEW)
    written = next(n for n in range(len(front), -1, -1) if own[:n] == front[:n])
    return [*front, *own[written:]]


_CUT_ANEW = (
    "this tokenizer cuts the text itself into other tokens when it adds special tokens; "
    "give the prompt's token ids, or read it with add_special_tokens=False"
)


def front_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that the tokenizer puts before every text, found with the text "a".

    Raises:
        PromptError: the tokenizer gives "a" other tokens when it adds special tokens.
    """
    own = list(tokenizer("a", add_special_tokens=False).input_ids)
    full = list(tokenizer("a").input_ids)
    start = next((i for i in range(len(full)) if full[i : i + len(own)] == own), None)
    if start is None:
        raise PromptError(_CUT_ANEW)
    return full[:start]


@lru_cache(maxsize=2**17)
def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return a token's own text, with the leading space that a decoder of whole texts would drop.

    A token that decodes to no text gets its name in the vocabulary, and an id without a token, as in the
    padding of an embedding matrix, `<id 50300>`. The text of a part of a character is a `CutToken`.
    """
    text = decoded(tokenizer, [token_id])
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" "):
        text = f" {text}"
    if "\ufffd" in text and (content := token_bytes(tokenizer, token_id)) is not None:
        return CutToken(text, content)
    return text or (str(piece) if piece else f"<id {token_id}>")


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> tuple[str, ...]:
    """Return each token's own text."""
    return tuple(token_text(tokenizer, i) for i in ids)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], special: bool = True) -> str:
    """Decode tokens, with special tokens written out unless `special` is False."""
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
    )


def added_text(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], added: Sequence[int], special: bool = False
) -> str:
    """Return the text that tokens add to those before them, without special tokens unless `special`."""
    before, text, alone = (decoded(tokenizer, some, special) for some in (ids, [*ids, *added], added))
    return text[len(before) :] if text.startswith(before) else alone


@lru_cache(maxsize=16)
def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the texts of the special tokens by their ids."""
    added = tokenizer.added_tokens_decoder.items()
    return {token_id: str(token) for token_id, token in added if token.special}


Message = Mapping[str, Any]


def is_chat(prompt: object) -> bool:
    """Return whether a prompt is a list of chat messages, each with a `role`."""
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str | bytes)
        and len(prompt) > 0
        and all(isinstance(message, Mapping) and "role" in message for message in prompt)
    )


def user_says(message: str) -> list[dict[str, str]]:
    """Return a chat of one user message.

    Raises:
        PromptError: the message is empty.
    """
    if not message:
        raise PromptError("the prompt is empty; give what the user says")
    return [{"role": "user", "content": message}]


def read_chat(
    name: str, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> tuple[str, list[int]]:
    """Render a chat as text and token ids with the tokenizer's `apply_chat_template`.

    The text ends where the model's answer begins; where the last message is by the assistant, it ends with
    that message, which the model then continues.

    Raises:
        PromptError: the template refuses the messages.
        OptionError: the model has no chat template.
    """
    if not tokenizer.chat_template:
        raise OptionError(
            f"{name} has no chat template, so it is no chat model or its template was not "
            "saved with its tokenizer; give the prompt as plain text"
        )
    goes_on = messages[-1]["role"] == "assistant"
    options = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on}
    chat: Any = [dict(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, **options)
        ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False, **options)
    except Exception as error:  # a template is a program and may raise anything
        raise PromptError(
            f"the chat template of {name} refuses the prompt "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); give the prompt as plain text"
        ) from error
    return str(text), [int(token) for token in ids]  # type: ignore[arg-type]


_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_bytes(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bytes | None:
    """Return the bytes that a token of a byte-level tokenizer stands for; None for other tokens."""
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if not isinstance(piece, str):
        return None
    of_one = _BYTE.fullmatch(piece)
    if of_one is not None:
        return bytes([int(of_one[1], 16)])
    table = _byte_letters()
    return bytes(table[letter] for letter in piece) if all(letter in table for letter in piece) else None


@cache
def _byte_letters() -> dict[str, int]:
    """Return the byte of each letter of byte-level pieces; unprintable bytes are letters from U+0100 up."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}
