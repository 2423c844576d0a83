"""A description (plain objects) with tables, as the content of `.json` and `.parquet` files.

A `.json` file has the description's keys and one more for every table, whose rows are objects. A `.parquet`
file is one long table with the name of each row's table in the column `table`; the description is JSON under
the key `mnemoscope` of its schema metadata.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pandas as pd

from mnemoscope._io import PLAIN_ENDINGS, check_destination, either, json_text, write_atomically
from mnemoscope.errors import UPGRADE, MnemoscopeError, OutputError
from mnemoscope.results.columns import LIST_COLUMNS, SCHEMA, names, records
from mnemoscope.results.render import report
from mnemoscope.results.texts import bytes_of, with_bytes

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 5
# Schema 4 had other names for two tables and one column.
_OLDEST_READ = 4
_RENAMED_TABLES = {
    "positions": "heads_by_position",
    "suppressing_positions": "suppressing_heads_by_position",
}
_FORMAT = "mnemoscope attribution"
_METADATA_KEY = b"mnemoscope"
# Texts of the description that hold tokens.
_TEXTS = ("tokens", "targets", "shared", "predictions")
_NUMERIC = ("float", "int", "uint", "bool")

Kind = Literal["attribution", "continuation", "circuit", "agreement"]
_REMEDIES = {
    "attribution": "`ContinuationAttribution.load` reads several tokens, and `Circuit.load` a circuit",
    "continuation": "`Attribution.load` reads one token",
    "circuit": "find one with `mnemoscope circuit find`",
    "agreement": "choose another folder",
}
Tables = Mapping[str, pd.DataFrame]
T = TypeVar("T")


class Saved(ABC):
    """Mixin of results that are saved for other programs; attributions and circuits are read back too."""

    @abstractmethod
    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name."""

    def to_json(self) -> dict[str, Any]:
        """Return every table by name as plain rows."""
        return {name: records(table) for name, table in self.tables().items()}

    def save(self, path: str | Path) -> Path:
        """Write `to_json` to a `.json` file, or all tables to a `.csv` file, whole or not at all.

        The column `table` of a `.csv` file names each row's table.

        Returns:
            The path of the file.

        Raises:
            OutputError: another ending, or a folder that does not exist or cannot be written.
        """
        path = check_destination(Path(path), PLAIN_ENDINGS)
        is_csv = path.suffix.lower() == ".csv"
        content = (
            report("export").long_csv_bytes(self) if is_csv else f"{json_text(self.to_json())}\n".encode()
        )
        write_atomically(path, content)
        return path


def json_bytes(description: dict[str, Any], tables: Tables, summary: dict[str, Any]) -> bytes:
    """Encode a description and tables as a `.json` file, which has the keys of a summary too."""
    rows = {name: records(table) for name, table in tables.items()}
    return (json_text({**_described(description, tables), **summary, **rows}) + "\n").encode("utf-8")


def parquet_bytes(description: dict[str, Any], tables: Tables) -> bytes:
    """Encode a description and tables as a `.parquet` file."""
    import pyarrow as pa
    from pyarrow import parquet

    parts = [_arrow_table(name, table) for name, table in tables.items()]
    metadata = {_METADATA_KEY: json_text(_described(description, tables)).encode("utf-8")}
    long_table = pa.concat_tables(parts, promote_options="permissive")
    stream = pa.BufferOutputStream()
    parquet.write_table(long_table.replace_schema_metadata(metadata), stream)
    return stream.getvalue().to_pybytes()


def load(path: Path, kind: Kind, restore: Callable[[dict[str, Any], dict[str, pd.DataFrame]], T]) -> T:
    """Read a `.json` or `.parquet` file.

    Args:
        path: of the file.
        kind: of the result that it should hold.
        restore: makes the result from the description and the tables.

    Raises:
        OutputError: the file is missing, damaged, of another program, of another schema version, or holds
            another kind of result.
    """
    path = path.expanduser()
    readers = {".json": _read_json, ".parquet": _read_parquet}
    ending = path.suffix.lower()
    if ending not in readers:
        raise OutputError(f"cannot read {path}: only {either(tuple(readers))} can be read back")
    try:
        description, tables = _with_cut_tokens(*_in_current_schema(*readers[ending](path)))
        # Attributions of older versions do not name their kind.
        if description.get("result", "attribution") != kind:
            raise OutputError(f"cannot read {path}: it holds no {kind}; {_REMEDIES[kind]}")
        return restore(description, tables)
    except MnemoscopeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}; check the name") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"cannot read {path}: it is damaged or no result of Mnemoscope; save it again"
        ) from error


def rows_by_token(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as plain objects, the numbers of each token in lists."""
    lists = {"direct_": "direct_by_token", "coefficient_": "coefficients"}
    rows = records(table)
    for kind, key in lists.items():
        names = [str(name) for name in table if str(name).startswith(kind)]
        for row in rows if names else ():
            row[key] = [row.pop(name) for name in names]
    return rows


def number(value: float | str | None) -> float:
    """Restore a number that `json_text` wrote, NaN and infinities included."""
    return float("nan") if value is None else float(value)


def _described(description: dict[str, Any], tables: Tables) -> dict[str, Any]:
    dtypes = {name: table.dtypes.astype(str).to_dict() for name, table in tables.items()}
    texts: dict[str, Any] = {name: description[name] for name in _TEXTS if name in description}
    texts |= {
        f"{name}.{column}": table[column].tolist()
        for name, table in tables.items()
        for column in table
        if table[column].dtype == "object"
    }
    cut = {place: known for place, value in texts.items() if any(known := bytes_of(value))}
    head = {"format": _FORMAT, "schema_version": SCHEMA_VERSION}
    return {**head, **description, "dtypes": dtypes, "cut_tokens": cut}


def _with_cut_tokens(
    description: dict[str, Any], tables: dict[str, pd.DataFrame]
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Give tokens that hold a part of a character their bytes; older files do not have them."""
    for place, known in description.get("cut_tokens", {}).items():
        name, _, column = place.partition(".")
        if name in _TEXTS:
            description = {**description, name: with_bytes(description[name], iter(known))}
        else:
            values = with_bytes(tables[name][column].tolist(), iter(known))
            tables = {**tables, name: tables[name].assign(**{column: pd.Series(values, dtype=object)})}
    return description, tables


def _check_ours(description: Any, path: Path) -> None:
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise OutputError(
            f"cannot read {path}: it is no attribution or circuit that `save` wrote; write one with "
            "`save`, or with `mnemoscope attribute --out FILE.json` instead of --json"
        )
    version = description["schema_version"]
    if version > SCHEMA_VERSION:
        raise OutputError(
            f"cannot read {path}: a newer Mnemoscope wrote it (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); {UPGRADE}"
        )
    if version < _OLDEST_READ:
        raise OutputError(
            f"cannot read {path}: an older Mnemoscope wrote it (schema {version}, this one reads "
            f"{_OLDEST_READ} to {SCHEMA_VERSION}); attribute the prompt again and save it"
        )


def _in_current_schema(
    description: dict[str, Any], tables: dict[str, pd.DataFrame]
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Give the tables and columns of a file of an older schema their present names."""
    if description["schema_version"] == SCHEMA_VERSION:
        return description, tables
    renamed = {_RENAMED_TABLES.get(name, name): table for name, table in tables.items()}
    for name, table in renamed.items():
        if "direct" in names(SCHEMA[name]):
            renamed[name] = table.rename(columns={"score": "direct"})
    costs = {_RENAMED_TABLES.get(name, name): cost for name, cost in description["costs"].items()}
    return {**description, "costs": costs}, renamed


def _read_json(path: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    _check_ours(document, path)
    tables = {}
    for name, dtypes in document["dtypes"].items():
        columns = {
            column: _column([row[column] for row in document[name]], dtype)
            for column, dtype in dtypes.items()
        }
        tables[name] = pd.DataFrame(columns)
    return document, tables


def _column(values: list[Any], dtype: str) -> pd.Series:
    if dtype.startswith(_NUMERIC):
        return pd.Series(np.array(values, dtype=object).astype(dtype))
    return pd.Series(values, dtype=dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _arrow_table(name: str, table: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {"table": pa.array([name] * len(table), pa.string())}
    for column in table:
        series = table[column]
        if series.empty:
            columns[column] = pa.nulls(0)
        elif column in LIST_COLUMNS:
            columns[column] = pa.array(series.tolist(), pa.list_(pa.string()))
        elif pd.api.types.is_numeric_dtype(series.dtype):
            columns[column] = pa.array(series.to_numpy())
        else:
            columns[column] = pa.array(series.tolist(), pa.string())
    return pa.table(columns)


def _read_parquet(path: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    from pyarrow import compute, parquet

    long_table = parquet.ParquetFile(path).read()
    description = json.loads((long_table.schema.metadata or {}).get(_METADATA_KEY, b"null"))
    _check_ours(description, path)
    tables = {}
    for name, dtypes in description["dtypes"].items():
        rows = long_table.filter(compute.field("table") == name)
        columns = {
            column: pd.Series(rows[column].to_numpy().astype(dtype))
            if dtype.startswith(_NUMERIC)
            else _column(rows[column].to_pylist(), dtype)
            for column, dtype in dtypes.items()
        }
        tables[name] = pd.DataFrame(columns)
    return description, tables
