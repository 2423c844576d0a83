"""What is asked of a prediction, as token ids: one answer, any of several, or answers against others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import SupportsIndex, cast

from mnemoscope.errors import TargetError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import Prompt, encode_target, token_text
from mnemoscope.whole_numbers import whole_number

# A token by its text, leading space included, or by its id (an int, or a number of numpy or torch); or
# several of them, in a list, a tensor, an array or a column.
Answers = str | SupportsIndex | Iterable[str | SupportsIndex]


def encode_targets(
    language_model: LanguageModel, prompt: Prompt, targets: Answers, name: str = "target"
) -> tuple[int, ...]:
    """The ids of one target or of several.

    Args:
        language_model: whose tokenizer to use.
        prompt: what comes before.
        targets: one or more, each a text or an id.
        name: of the argument, for messages.

    Raises:
        TargetError: there is none, one is given twice, one is not one token that can follow the prompt, or
            the argument is neither a token nor several.
    """
    if isinstance(targets, str | bytes | bool) or whole_number(targets) is not None:
        given = [cast("str | SupportsIndex", targets)]
    elif isinstance(targets, Iterable) and not isinstance(targets, Mapping) and getattr(targets, "ndim", 1):
        given = list(targets)
    else:
        raise TargetError(f"the {name} is {targets!r}; give a token's text or id, or a list of these")
    if not given:
        raise TargetError(f"the list for {name} is empty; give one token or more, or leave it out")
    ids = tuple(encode_target(language_model, prompt, target) for target in given)
    twice = next((token for token in ids if ids.count(token) > 1), None)
    if twice is not None:
        raise TargetError(f"{_named(language_model, twice)} is given twice as {name}; give each token once")
    return ids


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


def _named(language_model: LanguageModel, token: int) -> str:
    return f"{token_text(language_model.tokenizer, token)!r} (id {token})"
