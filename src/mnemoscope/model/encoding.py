"""Text as token ids and back: the only place that calls a tokenizer to encode or decode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from mnemoscope.errors import PromptError


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
    front = _put_in_front(tokenizer)
    if full[: len(front)] != front or full[len(front) : len(front) + len(own)] != own:
        raise PromptError(
            "this tokenizer cuts the text itself into other tokens when it adds special tokens; "
            "give the prompt's token ids, or read it with add_special_tokens=False"
        )
    written = next(n for n in range(len(front), -1, -1) if own[:n] == front[:n])
    return [*front, *own[written:]]


def _put_in_front(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Find the special tokens that the tokenizer puts before every text, by what it puts before a letter.

    A text of special tokens would not do: its own could not be told from those that are added.
    """
    own = list(tokenizer("a", add_special_tokens=False).input_ids)
    full = list(tokenizer("a").input_ids)
    start = next((i for i in range(len(full)) if full[i : i + len(own)] == own), 0)
    return full[:start]


@lru_cache(maxsize=2**17)
def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return a token's own text, with the leading space that a decoder of whole texts would drop.

    A token that decodes to no text has its name in the vocabulary instead, and an id without a token, as in
    the padding of an embedding matrix, `<id 50300>`.
    """
    text = decoded(tokenizer, [token_id])
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" "):
        return f" {text}"
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
    """Texts of the special tokens by their ids."""
    added = tokenizer.added_tokens_decoder.items()
    return {token_id: str(token) for token_id, token in added if token.special}
