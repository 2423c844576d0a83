"""Tokenisation of prompts and targets, and errors for targets that cannot follow their prompt."""

from __future__ import annotations

import contextlib
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


@dataclass(frozen=True)
class Prompt:
    """Tokenised prompt; `Model.prompt` makes one.

    Attributes:
        text: the text, or the decoded token ids.
        ids: token ids, with the special tokens that the tokenizer puts in front and without those that it
            appends. A prompt given as ids keeps these.
        tokens: each token's own text.
        add_special_tokens: whether special tokens were added to the text. A target is tokenised together
            with the text by the same rule.
    """

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    add_special_tokens: bool = True

    def __str__(self) -> str:
        return self.text


_ID_LIMIT = 2**31
_NOT_UNICODE = (
    "the {} is not valid Unicode: it holds a byte that is not UTF-8, or half of a surrogate pair; give it as "
    "UTF-8 text"
)

# A text; token ids as a list, tensor or array `[n_tokens]` or `[1, n_tokens]`; chat messages, each with
# `role` and `content`; or a `Prompt` of one of these.
PromptInput = str | Sequence[int] | Tensor | np.ndarray | Sequence[Message] | Prompt


def encode_prompt(
    language_model: LanguageModel, prompt: PromptInput, add_special_tokens: bool = True
) -> Prompt:
    """Tokenise a prompt, or check a prompt of token ids.

    Args:
        language_model: the model.
        prompt: text, token ids, chat messages, or a `Prompt`.
        add_special_tokens: False adds none to a text. None are ever added to token ids and chat messages.

    Raises:
        PromptError: the prompt is empty, of another type, longer than the model's context, has an id without
            an embedding, or was tokenised with another tokenizer.
        OptionError: the prompt is a chat, and the model has no chat template.
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
    """Return a prompt's text, its token ids, and whether special tokens were added to the text.

    Args:
        name: the model's name, for messages.
        tokenizer: the model's tokenizer.
        prompt: as for `encode_prompt`.
        add_special_tokens: as for `encode_prompt`.

    Raises:
        PromptError: the prompt is empty, or of another type.
        OptionError: the prompt is a chat, and the model has no chat template.
    """
    if isinstance(prompt, Prompt):
        return prompt.text, list(prompt.ids), prompt.add_special_tokens
    if is_chat(prompt):
        return *read_chat(name, tokenizer, cast("Sequence[Message]", prompt)), False
    if isinstance(prompt, str):
        if not _is_unicode(prompt):
            raise PromptError(_NOT_UNICODE.format("prompt"))
        text, ids = prompt, encode_text(tokenizer, prompt, add_special_tokens) if prompt else []
    else:
        given = whole_numbers(prompt)
        if given is None:
            raise PromptError(
                f"the prompt is {_named_type(prompt)}; give one prompt as text, as token ids (a list of int, "
                "or a tensor or array with one row), or as chat messages (a list of dict with role and "
                "content)"
            )
        wrong = next((token for token in given if not 0 <= token < _ID_LIMIT), None)
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


def adds_special_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> bool | None:
    """Return whether a prompt's text gives its ids with special tokens added (True), or without them (False).

    None if it gives other ids in both ways.
    """
    for adds in (prompt.add_special_tokens, not prompt.add_special_tokens):
        with contextlib.suppress(PromptError):
            if tuple(encode_text(tokenizer, prompt.text, adds)) == prompt.ids:
                return adds
    return None


def check_tokenizer(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that was made for a larger vocabulary.

    Tokens added to a tokenizer later, such as one for padding, may have no embedding: only a prompt with one
    of them is refused.

    Raises:
        ModelFileError: the tokenizer's own tokens outnumber the model's embeddings.
    """
    size = get_weight(model.get_input_embeddings()).shape[0]
    if tokenizer.vocab_size > size:
        raise ModelFileError(
            f"the tokenizer of {name} has {tokenizer.vocab_size:,} tokens but the model only {size:,} "
            "embeddings; put the tokenizer there that belongs to this model"
        )


def encode_target(language_model: LanguageModel, prompt: Prompt, target: str | SupportsIndex) -> int:
    """Return the token id of a target of one token after its prompt.

    Args:
        language_model: the model.
        prompt: the prompt.
        target: the target's text, leading space included, or its id (an int, or a numpy or torch integer).

    Raises:
        TargetError: the target is no text or id, empty, of several tokens, lacks the space it needs, or is
            not in the vocabulary.
    """
    token_id = whole_number(target)
    if token_id is not None:
        size = language_model.structure.n_vocabulary
        if not 0 <= token_id < size:
            raise TargetError(
                f"the target id {token_id} is not in the vocabulary; give one from 0 to {size - 1}"
            )
        return token_id
    if not isinstance(target, str):
        raise TargetError(f"the target is {target!r}; give one token's text or id")
    ids = encode_continuation(language_model, prompt, target)
    if len(ids) == 1:
        return ids[0]
    tokenizer = language_model.tokenizer
    first = next((i for i in ids if token_text(tokenizer, i).strip()), ids[0])
    raise TargetError(
        f"the answer {target!r} is {len(ids)} tokens ({_listed(tokenizer, ids)}), and here an answer is "
        f"one token; take the first, {token_text(tokenizer, first)!r} (id {first})"
        f"{_similar_tokens(tokenizer, target)}; all tokens of one target are scored by "
        "attribute_continuation, or `mnemoscope attribute` with one --target and at most one --against"
    )


def encode_continuation(language_model: LanguageModel, prompt: Prompt, target: str) -> tuple[int, ...]:
    """Tokenise a target together with its prompt, and return the ids of the target's tokens.

    Args:
        language_model: the model.
        prompt: the prompt.
        target: the target's text, leading space included.

    Raises:
        TargetError: the target is no text, empty, lacks the space it needs, is not in the vocabulary, or is
            of several tokens and its beginning merges with the end of the prompt.
    """
    if not isinstance(target, str):
        raise TargetError(f"the target is {target!r}; give one token's text or id")
    if not target:
        raise TargetError("the target is empty; give the next token's text, such as ' Tokyo'")
    if not _is_unicode(target):
        raise TargetError(_NOT_UNICODE.format("target"))
    tokenizer = language_model.tokenizer
    # Not the prompt's ids: ids given by the caller need not be the tokenizer's own for their text.
    own, together = (
        encode_text(tokenizer, text, prompt.add_special_tokens)
        for text in (prompt.text, prompt.text + target)
    )
    _refuse_missing_space(language_model, prompt, target, len(together))
    if together[: len(own)] == own:
        ids = together[len(own) :]
    elif prompt.text[-1:].isspace():
        raise TargetError(
            f"the prompt ends with white space that belongs to the target's token; "
            f"remove it from the prompt and take {prompt.text[-1] + target.lstrip()!r}"
        )
    else:
        ids = encode_text(tokenizer, target, add_special_tokens=False)
        # A tokenizer that puts a space before every text gives the token of another word.
        known = ids not in ([], [tokenizer.unk_token_id])
        if len(ids) > 1 or (known and added_text(tokenizer, prompt.ids, ids, special=True) != target):
            raise _merges(tokenizer, target, own, together)
    # The unknown token is a target only if it is written out: in GPT-2 it is the end-of-text token.
    unknown = sum(token == tokenizer.unk_token_id for token in ids)
    if not ids or unknown > target.count(str(tokenizer.unk_token)):
        raise TargetError(
            f"the target {target!r} is not in the model's vocabulary; "
            f"give one of its tokens{_similar_tokens(tokenizer, target)}"
        )
    return tuple(ids)


def is_named(language_model: LanguageModel, prompt: Prompt, text: str, token_id: int) -> bool:
    """Return whether a target's text after a prompt is one token, that of an id."""
    try:
        return encode_continuation(language_model, prompt, text) == (token_id,)
    except TargetError:
        return False


def as_a_word(language_model: LanguageModel, prompt: Prompt, target: str) -> str:
    """Put a space before a target that is a word of its own after the prompt."""
    return f" {target}" if _needs_space(language_model.tokenizer, prompt, target) else target


def answer_text(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], answer: Sequence[int]) -> str:
    """Return the text of an answer's tokens after the ids of a prompt."""
    if len(answer) == 1:
        return token_text(tokenizer, answer[0])
    return added_text(tokenizer, prompt, answer, special=True)


def prefixes(language_model: LanguageModel, prompt: Prompt, target: Sequence[int]) -> list[Prompt]:
    """Return the prompt, then the prompt with one token of the target more each, up to all but the last.

    Raises:
        PromptError: the longest exceeds the model's context.
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
    """Describe the type of a value, with its shape or the type of its first item."""
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


def _check_range(language_model: LanguageModel, ids: Sequence[int]) -> None:
    size = get_weight(language_model.model.get_input_embeddings()).shape[0]
    if max(ids) >= size:
        raise PromptError(
            f"the prompt has token id {max(ids)} but the model has {size} embeddings; give ids below {size}, "
            "or load the tokenizer that belongs to this model"
        )


def _needs_space(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, target: str) -> bool:
    """Return whether a target after the prompt is a word of its own; False after a special token."""
    # By text and not by id: the token for unknown words is special and stands for a word.
    after_special = prompt.text.endswith(tuple(special_tokens(tokenizer).values()))
    return not after_special and begins_new_word(prompt.text, target)


def _refuse_missing_space(
    language_model: LanguageModel, prompt: Prompt, target: str, n_together: int
) -> None:
    """Refuse a target that continues the prompt's last word where a space was probably forgotten.

    A space counts as forgotten where it makes the target one token, or no more tokens than without: in
    scripts without spaces, an added space is mostly one more token.

    Raises:
        TargetError: the target lacks the space.
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


def _merges(
    tokenizer: PreTrainedTokenizerBase, target: str, own: list[int], together: list[int]
) -> TargetError:
    """Return the error for a target whose beginning is one token with the prompt's end."""
    same = next(i for i, (old, new) in enumerate(zip(own, [*together, None], strict=False)) if old != new)
    spaced = "begin the target with a space if it is a word of its own, or " if target[0].isalnum() else ""
    return TargetError(
        f"the prompt's own tokens change when the target {target!r} is put behind it: "
        f"{_listed(tokenizer, own[same:])} becomes {_listed(tokenizer, together[same:])}; "
        f"{spaced}end the prompt where one of these tokens ends and begin the target there"
    )


def _listed(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return ", ".join(repr(text) for text in token_texts(tokenizer, ids))


def _similar_tokens(tokenizer: PreTrainedTokenizerBase, target: str) -> str:
    """Return up to three tokens of the vocabulary that resemble a target, as the end of a message."""
    wanted = target.strip().lower()
    pieces = {}
    for piece in tokenizer.get_vocab():
        plain = piece.lstrip("Ġ▁ ")
        if plain[:2].lower() == wanted[:2] and abs(len(plain) - len(wanted)) < 4:
            pieces.setdefault(plain, piece)
    close = difflib.get_close_matches(target.strip(), sorted(pieces), n=3, cutoff=0.6)
    ids = [tokenizer.convert_tokens_to_ids(pieces[name]) for name in close]
    texts = [repr(token_text(tokenizer, i)) for i in ids if isinstance(i, int)]
    return f", or one like it: {', '.join(texts)}" if texts else ""
