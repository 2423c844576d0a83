"""Fields of requests with their bounds, and models of responses from names and from columns of tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)
from pydantic_core import PydanticCustomError

from mnemoscope.results.columns import Column

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


NUMBER = float | Literal["Infinity", "-Infinity"] | None
Number = Annotated[NUMBER, Field(description="null where there is no number")]
Nats = Annotated[NUMBER, Field(description="nats; null if not computed")]
KLDivergence = Annotated[NUMBER, Field(description="nats per token")]

_FIELDS: dict[Any, str] = {
    int: "layer head neuron id rank seed n_facts "
    "n_layers n_heads n_kv_heads d_model d_ff d_head n_vocabulary "
    "first last checks position "
    "body_bytes prompt_characters prompt_tokens target_tokens top parts",
    float: "seconds",
    str: "token text shown worst prompt how model revision architecture dtype name title formula version",
    bool: "certified",
    list[str]: "tokens",
    list[int]: "token_ids",
    Nats: "log_probability tolerance",
    Number: "norm probability perplexity_before perplexity_after explained",
    KLDivergence: "kl",
    list[dict[str, Any]]: "attributions against_attributions facts summary outcomes nodes edges",
}
_TYPES = {name: kind for kind, names in _FIELDS.items() for name in names.split()}


_OF_DTYPE: dict[str, Any] = {
    "int64": int,
    "str": str,
    "list": list[str],
    "numbers": list[NUMBER],
    "bool": bool,
    "float32": NUMBER,
    "float64": NUMBER,
}


class ResponseModel(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


def schema(
    name: str,
    meaning: str,
    fields: str | tuple[Column, ...],
    base: type[BaseModel] = ResponseModel,
    **more: Any,
) -> type[BaseModel]:
    """Make the model of an object or of a table's rows.

    Args:
        name: name in the OpenAPI document.
        meaning: description in the OpenAPI document.
        fields: names of fields with the types of `_TYPES`, or columns of a table.
        base: base class; with `BaseModel` further fields are allowed.
        more: types of further fields, or of fields whose type differs here; a pair is a type and its default.
    """
    if isinstance(fields, str):
        types = {field: _TYPES[field] for field in fields.split()}
    else:
        types = {column.name: _typed(column) for column in fields}
    definitions: dict[str, Any] = {
        field: kind if isinstance(kind, tuple) else (kind, ...) for field, kind in (types | more).items()
    }
    return create_model(name, __base__=base, __doc__=meaning, **definitions)


def _typed(column: Column) -> Any:
    meaning = f"{column.meaning} ({column.unit})" if column.unit else column.meaning
    return described(_OF_DTYPE[column.dtype], meaning)


def rows(name: str, meaning: str, fields: str | tuple[Column, ...], **more: Any) -> Any:
    """Make the type of a list of rows, each with the fields of `schema`."""
    row = schema(name, meaning, fields, **more)
    return list[row]


def described(kind: Any, meaning: str) -> Any:
    """Make a type with a description."""
    return Annotated[kind, Field(description=meaning)]
