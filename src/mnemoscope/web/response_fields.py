"""Models of responses, made from names of fields and from the columns of tables."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from mnemoscope.results.columns import Column

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
