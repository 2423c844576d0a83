"""Targets as given, texts or ids, and what they must be for an objective to be defined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex, cast

from mnemoscope._arguments import whole_number
from mnemoscope.errors import TargetError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import Prompt, encode_target, token_text

# A token by its text, leading space included, or by its id (an int, or a number of numpy or torch); or
# several of them, in a list, a tensor, an array or a column.
Answers = str | SupportsIndex | Iterable[str | SupportsIndex]


def encode_targets(
    language_model: LanguageModel, prompt: Prompt, targets: Answers, name: str = "target"
) -> tuple[int, ...]:
    """Return the token ids of one target or of several.

    Args:
        language_model: whose tokenizer to use.
        prompt: what comes before.
        targets: one or more, each a text or an id.
        name: of the argument, for messages.

    Raises:
        TargetError: there is none, one is given twice, one is not one token that can follow the prompt, or
            the argument is neither a token nor several.
    """
    given = listed_answers(targets, name)
    ids = tuple(encode_target(language_model, prompt, target) for target in given)
    twice = next((token for token in ids if ids.count(token) > 1), None)
    if twice is not None:
        raise TargetError(f"{_named(language_model, twice)} is given twice as {name}; give each token once")
    return ids


def listed_answers(answers: Answers, name: str) -> list[str | SupportsIndex]:
    """Return one answer or several as a list of texts and ids; `name` is the argument's, for messages.

    Raises:
        TargetError: there is none, or the argument is neither an answer nor several.
    """
    if isinstance(answers, str | bytes | bool) or whole_number(answers) is not None:
        return [cast("str | SupportsIndex", answers)]
    if isinstance(answers, Mapping) or not isinstance(answers, Iterable) or not getattr(answers, "ndim", 1):
        raise TargetError(f"the {name} is {answers!r}; give a token's text or id, or a list of these")
    given = list(answers)
    if not given:
        raise TargetError(f"the list for {name} is empty; give one token or more, or leave it out")
    return given


def check_apart(language_model: LanguageModel, answers: tuple[int, ...], against: tuple[int, ...]) -> None:
    """Refuse tokens that are on both sides of a comparison.

    Raises:
        TargetError: there is one.
    """
    for token in against:
        if token in answers:
            raise TargetError(
                f"{_named(language_model, token)} is a target and among those it is compared with; "
                "take it out of one of the two"
            )


def check_alternatives(language_model: LanguageModel, answers: Sequence[Sequence[int]]) -> None:
    """Refuse answers, of one token or several each, that do not exclude each other.

    Raises:
        TargetError: one is another, or begins with it.
    """
    for number, answer in enumerate(answers):
        for other in answers[:number]:
            short, long = sorted((tuple(other), tuple(answer)), key=len)
            if long[: len(short)] != short:
                continue
            tokenizer = language_model.tokenizer
            named = [" ".join(repr(token_text(tokenizer, i)) for i in ids) for ids in (short, long)]
            how = "is given twice" if short == long else f"begins {named[1]}"
            raise TargetError(
                f"{named[0]} {how}, so that these answers do not exclude each other; compare answers of "
                "which none begins another"
            )


def _named(language_model: LanguageModel, token: int) -> str:
    return f"{token_text(language_model.tokenizer, token)!r} (id {token})"
