"""Prompts and targets as token ids, and what to tell a caller whose target is not one token."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from mnemoscope.errors import PromptError, TargetError
from mnemoscope.model.hooks import get_weight
from mnemoscope.model.language_model import LanguageModel


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it.

    Attributes:
        text: as given.
        ids: token ids, with the special tokens that the tokenizer adds by itself.
        tokens: each token's own text.
    """

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]


def encode_prompt(language_model: LanguageModel, text: str) -> Prompt:
    """Tokenise a prompt.

    Raises:
        PromptError: empty, or longer than the model's context.
    """
    if not text:
        raise PromptError(
            "the prompt is empty; give the text whose next token is to be explained, "
            'for instance "The capital of Japan is the city of"'
        )
    if not _is_unicode(text):
        raise PromptError("the prompt holds half of a surrogate pair; give valid Unicode text")
    ids = _encode(language_model.tokenizer, text)
    if not ids:
        raise PromptError("the prompt has no tokens for this model's tokenizer; give other text")
    context = language_model.context
    if context is not None and len(ids) > context:
        raise PromptError(
            f"the prompt has {len(ids)} tokens but the model reads at most {context}; "
            f"shorten it by {len(ids) - context}"
        )
    _check_range(language_model, ids)
    return Prompt(text, tuple(ids), tuple(token_text(language_model.tokenizer, i) for i in ids))


def encode_target(language_model: LanguageModel, prompt: Prompt, target: str | int) -> int:
    """The id of the one token that `target` is after the prompt.

    Args:
        language_model: whose tokenizer to use.
        prompt: what comes before.
        target: its text, leading space included, or its id.

    Raises:
        TargetError: empty, several tokens, without the space it needs, or not in the vocabulary.
    """
    if isinstance(target, int):
        return _checked_id(language_model, target)
    if not target:
        raise TargetError("the target is empty; give the next token's text, such as ' Tokyo'")
    if not _is_unicode(target):
        raise TargetError("the target holds half of a surrogate pair; give valid Unicode text")
    tokenizer = language_model.tokenizer
    _refuse_missing_space(language_model, prompt, target)
    together = _encode(tokenizer, prompt.text + target)
    if tuple(together[: len(prompt.ids)]) != prompt.ids:
        _refuse_merge(prompt, target)
        together = [*prompt.ids, *_encode(tokenizer, target, special=False)]
    ids = together[len(prompt.ids) :]
    if len(ids) > 1:
        pieces = ", ".join(repr(token_text(tokenizer, i)) for i in ids)
        first = next((i for i in ids if token_text(tokenizer, i).strip()), ids[0])
        raise TargetError(
            f"the target {target!r} is {len(ids)} tokens ({pieces}), "
            "and targets of several tokens come in a later "
            f"version; take {_offer(tokenizer, first)}{_nearest(tokenizer, target)}"
        )
    if not ids or ids[0] == tokenizer.unk_token_id:
        raise TargetError(
            f"the target {target!r} is not in the model's vocabulary; "
            f"give one of its tokens{_nearest(tokenizer, target)}"
        )
    return ids[0]


@lru_cache(maxsize=2**17)
def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token's own text, with the leading space that a decoder of whole texts would drop."""
    text = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    piece = str(tokenizer.convert_ids_to_tokens(token_id))
    return f" {text}" if piece.startswith("▁") and not text.startswith(" ") else text


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special).input_ids)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_id(language_model: LanguageModel, token_id: int) -> int:
    size = language_model.anatomy.n_vocabulary
    if not 0 <= token_id < size:
        raise TargetError(f"the target id {token_id} is not in the vocabulary; give one from 0 to {size - 1}")
    return token_id


def _check_range(language_model: LanguageModel, ids: list[int]) -> None:
    embeddings = language_model.model.get_input_embeddings()
    size = get_weight(embeddings).shape[0]
    if max(ids) >= size:
        raise PromptError(
            f"the tokenizer gives token id {max(ids)} but the model has {size} embeddings; "
            "load the tokenizer that belongs to this model"
        )


def _refuse_missing_space(language_model: LanguageModel, prompt: Prompt, target: str) -> None:
    """A word glued to the end of another word is nearly always a forgotten space."""
    if not target[0].isalnum() or prompt.text[-1].isspace():
        return
    tokenizer = language_model.tokenizer
    spaced = _encode(tokenizer, f"{prompt.text} {target}")
    if tuple(spaced[:-1]) == prompt.ids and spaced[-1] != tokenizer.unk_token_id:
        raise TargetError(
            f"the target {target!r} has no leading space, "
            "but the next word after this prompt begins with one; "
            f"take {' ' + target!r} (id {spaced[-1]}), "
            f"or give a token id if you mean {target!r} glued to the last word"
        )


def _refuse_merge(prompt: Prompt, target: str) -> None:
    if prompt.text[-1].isspace():
        raise TargetError(
            f"the prompt ends with white space that belongs to the target's token; "
            f"remove it from the prompt and take {prompt.text[-1] + target.lstrip()!r}"
        )


def _offer(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    return f"the first, {token_text(tokenizer, token_id)!r} (id {token_id})"


def _nearest(tokenizer: PreTrainedTokenizerBase, target: str) -> str:
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
