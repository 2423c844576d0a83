"""Messages about targets that are not one token after their prompt."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from mnemoscope.model.encoding import token_text


def merged(tokenizer: PreTrainedTokenizerBase, target: str, own: list[int], together: list[int]) -> str:
    """The message about a target whose beginning is one token with the prompt's end."""
    same = next(i for i, (old, new) in enumerate(zip(own, [*together, None], strict=False)) if old != new)
    spaced = "begin the target with a space if it is a word of its own, or " if target[0].isalnum() else ""
    return (
        f"the prompt's own tokens change when the target {target!r} is put behind it: "
        f"{pieces_of(tokenizer, own[same:])} becomes {pieces_of(tokenizer, together[same:])}; "
        f"{spaced}end the prompt where one of these tokens ends and begin the target there"
    )


def pieces_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Texts of tokens, as a list in a message."""
    return ", ".join(repr(token_text(tokenizer, i)) for i in ids)


def offer(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token that can be taken instead, with its id."""
    return f"the first, {token_text(tokenizer, token_id)!r} (id {token_id})"


def nearest(tokenizer: PreTrainedTokenizerBase, target: str) -> str:
    """Up to three tokens of the vocabulary that look like the target, as the end of a message."""
    wanted = target.strip().lower()
    pieces = {}
    for piece in tokenizer.get_vocab():
        plain = piece.lstrip("Ġ▁ ")
        if plain[:2].lower() == wanted[:2] and abs(len(plain) - len(wanted)) < 4:
            pieces.setdefault(plain, piece)
    close = difflib.get_close_matches(target.strip(), sorted(pieces), n=3, cutoff=0.6)
    if not close:
        return ""
    ids = [tokenizer.convert_tokens_to_ids(pieces[name]) for name in close]
    texts = [repr(token_text(tokenizer, i)) for i in ids if isinstance(i, int)]
    return f", or one like it: {', '.join(texts)}"
