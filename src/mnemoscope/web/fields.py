"""Fields that several requests share: prompts and tokens, each with its bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

MOST_PROMPT_CHARACTERS = 20_000
MOST_TARGET_CHARACTERS = 200
MOST_TARGETS = 20
MOST_TOP = 200

_LARGEST_INDEX = 10_000_000


def _not_empty(text: str) -> str:
    if not text:
        raise PydanticCustomError("empty_prompt", "type a prompt first")
    return text


def _without_null(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("null_character", "the text holds a null character; remove it")
    return text


def _told_as(wanted: str) -> Callable[[Any, ValidatorFunctionWrapHandler], Any]:
    """Validate a union with one message instead of one for each of its types."""

    def validated(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("token", "give {wanted}", {"wanted": wanted}) from None

    return validated


_ONE_TOKEN = f"a token's text (1 to {MOST_TARGET_CHARACTERS} characters, none of them null) or its id"
_PRINTABLE = r"^[^\x00]*$"
PromptText = Annotated[
    str,
    Field(
        max_length=MOST_PROMPT_CHARACTERS,
        description="The text before the token in question; markup in it is text too.",
        json_schema_extra={"pattern": _PRINTABLE, "minLength": 1},
    ),
    AfterValidator(_not_empty),
    AfterValidator(_without_null),
]
TargetText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MOST_TARGET_CHARACTERS,
        description="The next token as text, with the space in front that most words have.",
        json_schema_extra={"pattern": _PRINTABLE},
    ),
    AfterValidator(_without_null),
]
TokenId = Annotated[int, Field(ge=0, le=_LARGEST_INDEX, description="The next token by its id.")]
Token = Annotated[TargetText | TokenId, WrapValidator(_told_as(_ONE_TOKEN))]
Tokens = Annotated[
    TargetText
    | TokenId
    | Annotated[list[TargetText | TokenId], Field(min_length=1, max_length=MOST_TARGETS)],
    WrapValidator(_told_as(f"{_ONE_TOKEN}, or a list of 1 to {MOST_TARGETS} of these")),
]
Index = Annotated[int, Field(ge=0, le=_LARGEST_INDEX)]
Top = Annotated[int, Field(ge=1, le=MOST_TOP)]
