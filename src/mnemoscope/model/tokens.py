"""Prompts and targets as token ids, and errors for targets that are not one token."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, cast

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope._arguments import whole_number, whole_numbers
from mnemoscope.errors import ModelFileError, PromptError, TargetError
from mnemoscope.model.encoding import (
    Message,
    added_text,
    begins_new_word,
    decoded,
    encode_text,
    is_chat,
    read_chat,
    special_tokens,
    token_text,
    token_texts,
)
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.weights import get_weight


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


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it; `Model.prompt` makes one.

    Attributes:
        text: as given; of token ids, what they decode to.
        ids: token ids, with the special tokens that the tokenizer puts in front and without those that it
            appends, unless the prompt came as ids.
        tokens: each token's own text.
        add_special_tokens: whether special tokens were added to the text. A target is tokenised together
            with the text in the same way.
    """

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    add_special_tokens: bool = True

    def __str__(self) -> str:
        return self.text


_MOST_IDS = 2**31

# A text; token ids, as a list, a tensor or an array `[n]` or `[1, n]`; chat messages, each with `role` and
# `content`; or what `Model.prompt` made of one of these.
PromptInput = str | Sequence[int] | Tensor | np.ndarray | Sequence[Message] | Prompt


def encode_prompt(
    language_model: LanguageModel, prompt: PromptInput, add_special_tokens: bool = True
) -> Prompt:
    """Tokenise a prompt, or check one that comes as token ids.

    Args:
        language_model: the model.
        prompt: text, token ids, chat messages, or a prompt that was read before.
        add_special_tokens: False adds none to a text. Token ids and chat messages never get any.

    Raises:
        PromptError: empty, of another type, longer than the model's context, with an id that the model does
            not have, or read with another tokenizer.
        OptionError: chat messages, and the model has no chat template.
    """
    tokenizer = language_model.tokenizer
    if isinstance(prompt, Prompt) and (add_special_tokens or not prompt.add_special_tokens):
        found = prompt
    else:
        given = prompt.text if isinstance(prompt, Prompt) else prompt
        text, ids, special = read_prompt(language_model.name, tokenizer, given, add_special_tokens)
        _check_range(language_model, ids)
        found = Prompt(text, tuple(ids), token_texts(tokenizer, ids), special)
    context = language_model.context
    if context is not None and len(found.ids) > context:
        raise PromptError(
            f"the prompt has {len(found.ids)} tokens but the model reads at most {context}; "
            f"shorten it by {len(found.ids) - context}"
        )
    if found is prompt:
        _check_range(language_model, found.ids)
        if token_texts(tokenizer, found.ids) != found.tokens:
            raise PromptError(
                f"the prompt was read with the tokenizer of another model than {language_model.name}; "
                "give its text, or read it with this model's prompt()"
            )
    return found


def read_prompt(
    name: str, tokenizer: PreTrainedTokenizerBase, prompt: PromptInput, add_special_tokens: bool = True
) -> tuple[str, list[int], bool]:
    """Read a prompt: its text, its token ids, and whether special tokens were added to the text.

    Args:
        name: of the model, for messages.
        tokenizer: of the model.
        prompt: as for `encode_prompt`.
        add_special_tokens: as for `encode_prompt`.

    Raises:
        PromptError: empty, or of another type.
        OptionError: chat messages, and the model has no chat template.
    """
    if isinstance(prompt, Prompt):
        return prompt.text, list(prompt.ids), prompt.add_special_tokens
    if is_chat(prompt):
        return *read_chat(name, tokenizer, cast("Sequence[Message]", prompt)), False
    if isinstance(prompt, str):
        if prompt and not _is_unicode(prompt):
            raise PromptError(
                "the prompt is not valid Unicode: it holds a byte that is not UTF-8, or half of a surrogate "
                "pair; give it as UTF-8 text"
            )
        text, ids = prompt, encode_text(tokenizer, prompt, add_special_tokens) if prompt else []
    else:
        given = whole_numbers(prompt)
        if given is None:
            raise PromptError(
                f"the prompt is {_named_type(prompt)}; give one prompt as text, as token ids (a list of int, "
                "or a tensor or array with one row), or as chat messages (a list of dict with role and "
                "content)"
            )
        wrong = next((token for token in given if not 0 <= token < _MOST_IDS), None)
        if wrong is not None:
            raise PromptError(f"the prompt has token id {wrong}, which no model has; give ids from 0 up")
        text, ids, add_special_tokens = decoded(tokenizer, given), given, False
    if not len(prompt):
        raise PromptError(
            "the prompt is empty; give the text whose next token is to be explained, "
            'for instance "The capital of Japan is the city of"'
        )
    if not ids:
        raise PromptError("the prompt has no tokens for this model's tokenizer; give other text")
    return text, ids, add_special_tokens


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


def encode_target(language_model: LanguageModel, prompt: Prompt, target: str | SupportsIndex) -> int:
    """Return the id of the one token that `target` is after the prompt.

    Args:
        language_model: whose tokenizer to use.
        prompt: the text before the target.
        target: its text, leading space included, or its id (an int, or a number of numpy or torch).

    Raises:
        TargetError: no text or id, empty, several tokens, without the space it needs, or not in the
            vocabulary.
    """
    token_id = whole_number(target)
    if token_id is not None:
        return _checked_id(language_model, token_id)
    if not isinstance(target, str):
        raise TargetError(f"the target is {target!r}; give one token's text or id")
    ids = encode_continuation(language_model, prompt, target)
    if len(ids) == 1:
        return ids[0]
    tokenizer = language_model.tokenizer
    first = next((i for i in ids if token_text(tokenizer, i).strip()), ids[0])
    raise TargetError(
        f"the target {target!r} is {len(ids)} tokens ({pieces_of(tokenizer, ids)}), and here a target is "
        f"one token; take {offer(tokenizer, first)}{nearest(tokenizer, target)}; all tokens of one "
        "target are scored by attribute_continuation, or `mnemoscope attribute` with one --target"
    )


def encode_continuation(language_model: LanguageModel, prompt: Prompt, target: str) -> tuple[int, ...]:
    """Tokenise a target together with its prompt, and return the ids of the target's tokens.

    Args:
        language_model: whose tokenizer to use.
        prompt: the text before the target.
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
        raise TargetError(
            "the target is not valid Unicode: it holds a byte that is not UTF-8, or half of a surrogate "
            "pair; give it as UTF-8 text"
        )
    tokenizer = language_model.tokenizer
    # Not the prompt's ids: those that came as ids need not be what the tokenizer makes of their text.
    own, together = (
        encode_text(tokenizer, text, prompt.add_special_tokens)
        for text in (prompt.text, prompt.text + target)
    )
    _refuse_missing_space(language_model, prompt, target, len(together))
    if together[: len(own)] == own:
        ids = together[len(own) :]
    else:
        _refuse_merge(prompt, target)
        ids = encode_text(tokenizer, target, add_special_tokens=False)
        # A tokenizer that puts a space before every text would give the token of another word.
        known = ids not in ([], [tokenizer.unk_token_id])
        if len(ids) > 1 or (known and added_text(tokenizer, prompt.ids, ids, special=True) != target):
            raise TargetError(merged(tokenizer, target, own, together))
    # The unknown token can be a target too, if it is written out: GPT-2's is its end of text.
    unknown = sum(token == tokenizer.unk_token_id for token in ids)
    if not ids or unknown > target.count(str(tokenizer.unk_token)):
        raise TargetError(
            f"the target {target!r} is not in the model's vocabulary; "
            f"give one of its tokens{nearest(tokenizer, target)}"
        )
    return tuple(ids)


def as_a_word(language_model: LanguageModel, prompt: Prompt, target: str) -> str:
    """Put a space before a bare target where it is a word of its own after the prompt."""
    return f" {target}" if _needs_space(language_model.tokenizer, prompt, target) else target


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
        text = prompt.text + added_text(language_model.tokenizer, prompt.ids, read, special=True)
        ids = (*prompt.ids, *read)
        found.append(Prompt(text, ids, (*prompt.tokens, *tokens), prompt.add_special_tokens))
    return found


def _named_type(value: Any) -> str:
    """The type of a value in words, with its shape or the type of its first item."""
    name = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        return f"of type {name} with shape {list(value.shape)} and {value.dtype} values"
    first = value[0] if isinstance(value, list | tuple) and value else None
    return f"of type {name}" if first is None else f"of type {name} that holds {type(first).__name__}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_id(language_model: LanguageModel, token_id: int) -> int:
    size = language_model.structure.n_vocabulary
    if not 0 <= token_id < size:
        raise TargetError(f"the target id {token_id} is not in the vocabulary; give one from 0 to {size - 1}")
    return token_id


def _check_range(language_model: LanguageModel, ids: Sequence[int]) -> None:
    embeddings = language_model.model.get_input_embeddings()
    size = get_weight(embeddings).shape[0]
    if max(ids) >= size:
        raise PromptError(
            f"the prompt has token id {max(ids)} but the model has {size} embeddings; give ids below {size}, "
            "or load the tokenizer that belongs to this model"
        )


def _needs_space(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, target: str) -> bool:
    """Whether a bare target after the prompt is a word of its own; never after a special token."""
    # The last id may be the token for unknown words, which is special and stands for a word.
    after_special = prompt.text.endswith(tuple(special_tokens(tokenizer).values()))
    return not after_special and begins_new_word(prompt.text, target)


def _refuse_missing_space(
    language_model: LanguageModel, prompt: Prompt, target: str, n_together: int
) -> None:
    """A word glued to the end of another word is nearly always a forgotten space.

    It is taken for one where a space makes it a single token, or no more tokens than without: in scripts that
    have no spaces, one that is put in mostly is a token more.
    """
    tokenizer = language_model.tokenizer
    if not _needs_space(tokenizer, prompt, target):
        return
    own, spaced = (
        encode_text(tokenizer, text, prompt.add_special_tokens)
        for text in (prompt.text, f"{prompt.text} {target}")
    )
    ids = spaced[len(own) :]
    if spaced[: len(own)] != own or tokenizer.unk_token_id in ids:
        return
    if len(ids) == 1 or len(spaced) <= n_together:
        named = f"{' ' + target!r} ({'id' if len(ids) == 1 else 'ids'} {', '.join(map(str, ids))})"
        raise TargetError(
            f"the target {target!r} has no leading space, "
            "but the next word after this prompt begins with one; "
            f"take {named}, or give a token id if you mean {target!r} glued to the last word"
        )


def _refuse_merge(prompt: Prompt, target: str) -> None:
    if prompt.text[-1:].isspace():
        raise TargetError(
            f"the prompt ends with white space that belongs to the target's token; "
            f"remove it from the prompt and take {prompt.text[-1] + target.lstrip()!r}"
        )
