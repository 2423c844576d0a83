"""Prompts and targets as token ids, and what to tell a caller whose target is not one token."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope.errors import ModelFileError, PromptError, TargetError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.matrix import get_weight


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it.

    Attributes:
        text: as given.
        ids: token ids, with the special tokens that the tokenizer adds by itself, unless the text begins
            with one: it is then taken to have all of them, as text from a chat template does.
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


def check_tokenizer(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that is made for a larger vocabulary.

    Tokens added to a tokenizer later, such as one for padding, may go beyond what the model has embeddings
    for: only a prompt with one of them is refused.

    Raises:
        ModelFileError: its own tokens are more than the model's embeddings.
    """
    size = get_weight(model.get_input_embeddings()).shape[0]
    if tokenizer.vocab_size > size:
        raise ModelFileError(
            f"the tokenizer of {name} has {tokenizer.vocab_size:,} tokens but the model only {size:,} "
            "embeddings; put the tokenizer there that belongs to this model"
        )


def encode_target(language_model: LanguageModel, prompt: Prompt, target: str | int) -> int:
    """The id of the one token that `target` is after the prompt.

    Args:
        language_model: whose tokenizer to use.
        prompt: what comes before.
        target: its text, leading space included, or its id.

    Raises:
        TargetError: no text or id, empty, several tokens, without the space it needs, or not in the
            vocabulary.
    """
    if isinstance(target, int):
        return _checked_id(language_model, target)
    ids = encode_continuation(language_model, prompt, target)
    if len(ids) == 1:
        return ids[0]
    tokenizer = language_model.tokenizer
    first = next((i for i in ids if token_text(tokenizer, i).strip()), ids[0])
    raise TargetError(
        f"the target {target!r} is {len(ids)} tokens ({_pieces(tokenizer, ids)}), and here a target is "
        f"one token; take {_offer(tokenizer, first)}{_nearest(tokenizer, target)}; all tokens of one "
        "target are scored by attribute_continuation, or `mnemoscope attribute` with one --target"
    )


def encode_continuation(language_model: LanguageModel, prompt: Prompt, target: str) -> tuple[int, ...]:
    """The ids of the tokens that `target` is after the prompt, tokenised together with it.

    Args:
        language_model: whose tokenizer to use.
        prompt: what comes before.
        target: its text, leading space included.

    Raises:
        TargetError: no text, empty, without the space it needs, not in the vocabulary, or of several tokens
            and at its beginning one with the end of the prompt.
    """
    if not isinstance(target, str):
        raise TargetError(f"the target is {target!r}; give one token's text or id")
    if not target:
        raise TargetError("the target is empty; give the next token's text, such as ' Tokyo'")
    if not _is_unicode(target):
        raise TargetError("the target holds half of a surrogate pair; give valid Unicode text")
    tokenizer = language_model.tokenizer
    together = _encode(tokenizer, prompt.text + target)
    _refuse_missing_space(language_model, prompt, target, len(together))
    merges = tuple(together[: len(prompt.ids)]) != prompt.ids
    if merges:
        _refuse_merge(prompt, target)
        ids = _encode(tokenizer, target, special=False)
        if len(ids) > 1:
            raise TargetError(_merged(tokenizer, prompt, target, together))
    else:
        ids = together[len(prompt.ids) :]
    if not ids or tokenizer.unk_token_id in ids:
        raise TargetError(
            f"the target {target!r} is not in the model's vocabulary; "
            f"give one of its tokens{_nearest(tokenizer, target)}"
        )
    return tuple(ids)


def prefixes(language_model: LanguageModel, prompt: Prompt, target: Sequence[int]) -> list[Prompt]:
    """The prompt, then the prompt with the target's first token, and so on up to all but its last.

    Raises:
        PromptError: the last is longer than the model's context.
    """
    _check_range(language_model, target)
    n_tokens, context = len(prompt.ids) + len(target) - 1, language_model.context
    if context is not None and n_tokens > context:
        raise PromptError(
            f"the prompt has {len(prompt.ids)} tokens and the target {len(target)}, of which the last is "
            f"only predicted, but the model reads at most {context}; shorten them by {n_tokens - context}"
        )
    found = [prompt]
    for n_read in range(1, len(target)):
        read = target[:n_read]
        tokens = tuple(token_text(language_model.tokenizer, i) for i in read)
        text = prompt.text + added_text(language_model.tokenizer, prompt.ids, read)
        found.append(Prompt(text, (*prompt.ids, *read), (*prompt.tokens, *tokens)))
    return found


def added_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], added: Sequence[int]) -> str:
    """What tokens add to the text of those before them, without special tokens."""
    before, text, alone = (
        str(tokenizer.decode(list(some), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for some in (ids, [*ids, *added], added)
    )
    return text[len(before) :] if text.startswith(before) else alone


@lru_cache(maxsize=2**17)
def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token's own text, with the leading space that a decoder of whole texts would drop."""
    text = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    piece = str(tokenizer.convert_ids_to_tokens(token_id))
    return f" {text}" if piece.startswith("▁") and not text.startswith(" ") else text


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> list[int]:
    """Token ids; special tokens that the text writes out are single tokens, and are not added again."""
    written = text.startswith(tuple(_special_tokens(tokenizer).values()))
    return list(tokenizer(text, add_special_tokens=special and not written).input_ids)


@lru_cache(maxsize=16)
def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    added = tokenizer.added_tokens_decoder.items()
    return {token_id: str(token) for token_id, token in added if token.special}


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


def _check_range(language_model: LanguageModel, ids: Sequence[int]) -> None:
    embeddings = language_model.model.get_input_embeddings()
    size = get_weight(embeddings).shape[0]
    if max(ids) >= size:
        raise PromptError(
            f"the tokenizer gives token id {max(ids)} but the model has {size} embeddings; "
            "load the tokenizer that belongs to this model"
        )


def _refuse_missing_space(
    language_model: LanguageModel, prompt: Prompt, target: str, n_together: int
) -> None:
    """A word glued to the end of another word is nearly always a forgotten space.

    It is taken for one where a space makes it a single token, or no more tokens than without: in scripts that
    have no spaces, one that is put in mostly is a token more.
    """
    tokenizer = language_model.tokenizer
    after_special = prompt.ids[-1] in _special_tokens(tokenizer)
    if not target[0].isalnum() or prompt.text[-1].isspace() or after_special:
        return
    spaced = _encode(tokenizer, f"{prompt.text} {target}")
    ids = spaced[len(prompt.ids) :]
    if tuple(spaced[: len(prompt.ids)]) != prompt.ids or tokenizer.unk_token_id in ids:
        return
    if len(ids) == 1 or len(spaced) <= n_together:
        named = f"{' ' + target!r} ({'id' if len(ids) == 1 else 'ids'} {', '.join(map(str, ids))})"
        raise TargetError(
            f"the target {target!r} has no leading space, "
            "but the next word after this prompt begins with one; "
            f"take {named}, or give a token id if you mean {target!r} glued to the last word"
        )


def _refuse_merge(prompt: Prompt, target: str) -> None:
    if prompt.text[-1].isspace():
        raise TargetError(
            f"the prompt ends with white space that belongs to the target's token; "
            f"remove it from the prompt and take {prompt.text[-1] + target.lstrip()!r}"
        )


def _merged(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, target: str, together: list[int]) -> str:
    """What to tell of a target of several tokens whose beginning is one token with the prompt's end."""
    same = next(
        i for i, (own, new) in enumerate(zip(prompt.ids, [*together, None], strict=False)) if own != new
    )
    spaced = "begin the target with a space if it is a word of its own, or " if target[0].isalnum() else ""
    return (
        f"the prompt's own tokens change when the target {target!r} is put behind it: "
        f"{_pieces(tokenizer, prompt.ids[same:])} becomes {_pieces(tokenizer, together[same:])}; "
        f"{spaced}end the prompt where one of these tokens ends and begin the target there"
    )


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return ", ".join(repr(token_text(tokenizer, i)) for i in ids)


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
