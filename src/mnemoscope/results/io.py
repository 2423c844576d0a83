"""Attributions as `.json`, `.parquet` and `.html` files.

A `.json` file is what `mnemoscope attribute --json` prints and more: the same keys, with every
table and column. A `.parquet` file is one long table with the name of each row's table in the
column `table`; everything else is JSON under the key `mnemoscope` of its schema metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mnemoscope._io import ATTRIBUTION_ENDINGS, check_destination, either, json_text, write_atomically
from mnemoscope.errors import UPGRADE, MnemoscopeError, OutputError
from mnemoscope.results.attribution import SCHEMA_VERSION, Attribution
from mnemoscope.results.columns import QUERY_TABLES, TABLES, records
from mnemoscope.results.query import QueryNeurons
from mnemoscope.results.render import report
from mnemoscope.results.targets import Cost, Provenance, Target, Targets

if TYPE_CHECKING:
    import pyarrow as pa


FORMAT = "mnemoscope attribution"
_METADATA_KEY = b"mnemoscope"
_NUMERIC = ("float", "int", "uint", "bool")
_LIST_COLUMNS = frozenset({"promotes", "demotes"})


def save(result: Attribution, path: Path) -> Path:
    """Write a result in the form its ending names, whole or not at all.

    Returns:
        The path of the file.

    Raises:
        OutputError: see `check_destination`; or the folder cannot be written, the disk is full.
    """
    path = check_destination(path, ATTRIBUTION_ENDINGS)
    writers: dict[str, Callable[[Attribution], bytes]] = {
        ".json": json_bytes,
        ".parquet": _parquet_bytes,
        ".html": _html_bytes,
    }
    write_atomically(path, writers[path.suffix.lower()](result))
    return path


def load(path: Path) -> Attribution:
    """Read a result that `save` wrote to a `.json` or `.parquet` file.

    Raises:
        OutputError: no such file, damaged, not ours, or written by a newer version.
    """
    path = path.expanduser()
    readers: dict[str, Callable[[Path], Attribution]] = {
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    ending = path.suffix.lower()
    if ending not in readers:
        raise OutputError(f"cannot read {path}: only {either(tuple(readers))} can be read back")
    try:
        return readers[ending](path)
    except MnemoscopeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}; check the name") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"cannot read {path}: it is damaged or no result of Mnemoscope; save it again"
        ) from error


def _description(result: Attribution) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "schema_version": result.schema_version,
        "prompt": result.prompt,
        "tokens": list(result.tokens),
        "token_ids": list(result.token_ids),
        **result.targets.to_json(),
        "certified": result.certified,
        "tolerance": result.tolerance,
        "value_of_embeddings": result.value_of_embeddings,
        "telescoping_error": result.telescoping_error,
        "costs": {name: vars(cost) for name, cost in result.costs.items()},
        "provenance": vars(result.provenance),
        "dtypes": {
            name: {column: str(dtype) for column, dtype in table.dtypes.items()}
            for name, table in result.tables().items()
        },
    }


def _restored(description: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Attribution:
    value_tables: dict[str, Any] = {name: tables[name] for name in TABLES}
    rounding = description["telescoping_error"]
    return Attribution(
        prompt=description["prompt"],
        tokens=tuple(description["tokens"]),
        token_ids=tuple(description["token_ids"]),
        targets=_targets(description["targets"]),
        certified=description["certified"],
        tolerance=description.get("tolerance"),
        value_of_embeddings=_number(description["value_of_embeddings"]),
        telescoping_error=None if rounding is None else _number(rounding),
        costs={name: Cost(**cost) for name, cost in description["costs"].items()},
        provenance=Provenance(**description["provenance"]),
        query_neurons=QueryNeurons.of_tables(tables) if set(QUERY_TABLES) <= set(tables) else None,
        **value_tables,
    )


def _targets(described: dict[str, Any]) -> Targets:
    answers, against = (
        tuple(_target(target) for target in described[side]) for side in ("answers", "against")
    )
    return Targets(answers, against, _number(described["value"]))


def _target(described: dict[str, Any]) -> Target:
    numbers = {name: _number(described[name]) for name in ("probability", "log_probability")}
    return Target(**{**described, **numbers})


def _columns(description: Any) -> dict[str, tuple[str, ...]]:
    """The tables of a description and their columns; query neurons are there if they were asked for."""
    return {name: tuple(columns) for name, columns in description["dtypes"].items()}


def _number(value: float | str | None) -> float:
    """A number as `json_text` wrote it, NaN and infinities included."""
    return float("nan") if value is None else float(value)


def _check_ours(description: Any, path: Path) -> None:
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise OutputError(f"cannot read {path}: it is not a result that `save` wrote")
    version = description["schema_version"]
    if version > SCHEMA_VERSION:
        raise OutputError(
            f"cannot read {path}: a newer Mnemoscope wrote it (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); {UPGRADE}"
        )
    if version < SCHEMA_VERSION:
        raise OutputError(
            f"cannot read {path}: an older Mnemoscope wrote it (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); attribute the prompt again and save it"
        )


def _json_column(values: list[Any], dtype: str) -> pd.Series:
    if dtype.startswith(_NUMERIC):
        return pd.Series(np.array(values, dtype=object).astype(dtype))
    return pd.Series(values, dtype=dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _parquet_column(values: pa.ChunkedArray, dtype: str) -> pd.Series:
    if dtype.startswith(_NUMERIC):
        return pd.Series(values.to_numpy().astype(dtype))
    return _json_column(values.to_pylist(), dtype)


def _html_bytes(result: Attribution) -> bytes:
    return report("html").render_html(result).encode("utf-8", "xmlcharrefreplace")


def json_bytes(result: Attribution) -> bytes:
    """The whole result as the content of a `.json` file."""
    tables = {name: records(table, tuple(table)) for name, table in result.tables().items()}
    document = {**_description(result), **result.to_json(), **tables}
    return (json_text(document) + "\n").encode("utf-8")


def _read_json(path: Path) -> Attribution:
    document = json.loads(path.read_text(encoding="utf-8"))
    _check_ours(document, path)
    tables = {}
    for name, columns in _columns(document).items():
        dtypes, rows = document["dtypes"][name], document[name]
        tables[name] = pd.DataFrame(
            {column: _json_column([row[column] for row in rows], dtypes[column]) for column in columns}
        )
    return _restored(document, tables)


def _parquet_bytes(result: Attribution) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    parts = [_arrow_table(name, table) for name, table in result.tables().items()]
    metadata = {_METADATA_KEY: json_text(_description(result)).encode("utf-8")}
    long_table = pa.concat_tables(parts, promote_options="permissive")
    stream = pa.BufferOutputStream()
    parquet.write_table(long_table.replace_schema_metadata(metadata), stream)
    return stream.getvalue().to_pybytes()


def _arrow_table(name: str, table: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {"table": pa.array([name] * len(table), pa.string())}
    for column in table:
        series = table[column]
        if series.empty:
            columns[column] = pa.nulls(0)
        elif column in _LIST_COLUMNS:
            columns[column] = pa.array(series.tolist(), pa.list_(pa.string()))
        elif pd.api.types.is_numeric_dtype(series.dtype):
            columns[column] = pa.array(series.to_numpy())
        else:
            columns[column] = pa.array(series.tolist(), pa.string())
    return pa.table(columns)


def _read_parquet(path: Path) -> Attribution:
    from pyarrow import compute, parquet

    long_table = parquet.ParquetFile(path).read()
    description = json.loads((long_table.schema.metadata or {}).get(_METADATA_KEY, b"null"))
    _check_ours(description, path)
    tables = {}
    for name, columns in _columns(description).items():
        rows = long_table.filter(compute.field("table") == name)
        dtypes = description["dtypes"][name]
        tables[name] = pd.DataFrame(
            {column: _parquet_column(rows[column], dtypes[column]) for column in columns}
        )
    return _restored(description, tables)
