"""Store of a study's results in a folder that survives a kill at any moment.

DIR/manifest.json                  what the results depend on
DIR/tables/TABLE/KEY.parquet       rows of a table, one file (a shard) for each task
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import parquet
from typing_extensions import Self

from mnemoscope._io import PARTIAL, write_atomically
from mnemoscope.errors import UPGRADE, OptionError, OutputError

FORMAT = "mnemoscope study"
SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
TABLES = "tables"
KEY = "key"
LOCK = ".lock"
# Lower case only: "A" and "a" are one file on some systems, and a folder may be moved there.
_SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_ENDING = ".parquet"
_PARTIAL_MANIFEST = f".{MANIFEST}.*{PARTIAL}"
_N_DIFFERENCES = 3


class Store:
    """Results of a study: one Parquet file (a shard) for each table and finished task.

    A shard is written whole or not at all, so a killed study continues with the keys that are not `done`.
    An open store locks its folder against other writers; the system frees the lock of a process that dies.
    Reading (`read_table`) takes no lock.

    Attributes:
        folder: of the study.
    """

    def __init__(self, folder: Path, lock: FileLock) -> None:
        """Wrap a locked folder; callers use `Store.open`."""
        self.folder, self._lock = folder, lock

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> Store:
        """Create a store, or continue that of the same study.

        Args:
            folder: new, empty or with a store; its parent must exist.
            manifest: all that the results depend on, as plain JSON values without NaN.

        Raises:
            OutputError: the folder cannot be written, is open already, holds something else, or a study with
                another, newer or damaged manifest. Nothing in it is then changed.
        """
        folder = folder.expanduser()
        wanted = json.loads(json.dumps(manifest, allow_nan=False))
        check_folder(folder)
        lock = _locked(folder)
        try:
            _create_or_compare(folder, wanted)
        except BaseException:
            lock.release()
            raise
        return cls(folder, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock of the folder."""
        self._lock.release()

    def done(self, table: str) -> set[str]:
        """Return the keys of a table's shards; raise OutputError if the folder cannot be read."""
        return {path.name.removesuffix(_ENDING) for path in shards(self.folder, table)}

    def write(self, table: str, key: str, content: bytes) -> None:
        """Write one shard, whole or not at all, in place of one of the same table and key.

        Raises:
            OptionError: table or key is not a safe file name.
            OutputError: the folder cannot be written, or the disk is full.
        """
        for name in (table, key):
            if not _SAFE_NAME.fullmatch(name):
                raise OptionError(
                    f"{name!r} is no safe file name; give at most 100 lower-case letters, digits, "
                    "'.', '_' and '-', a letter or digit first"
                )
        where = self.folder / TABLES / table
        try:
            where.mkdir(exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        write_atomically(where / f"{key}{_ENDING}", content)


def encoded(table: pd.DataFrame) -> bytes:
    """Encode rows without index as Parquet; raise OptionError for a column `key`, which reading adds."""
    if KEY in table.columns:
        raise OptionError(f"a table has a column {KEY!r}, which is added when it is read; rename it")
    # Without checksums a flipped bit would pass for a score.
    return table.to_parquet(engine="pyarrow", index=False, write_page_checksum=True)


def shards(folder: Path, table: str) -> list[Path]:
    """Return the files of a table by key, or none; raise OutputError if the folder cannot be read."""
    where = folder / TABLES / table
    try:
        names = [path.name for path in where.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(where, error) from error
    keys = sorted(name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING))
    return [where / f"{key}{_ENDING}" for key in keys if _SAFE_NAME.fullmatch(key)]


def read_table(folder: Path, table: str) -> pd.DataFrame:
    """Read all rows of a table, shard after shard by key.

    Returns:
        The column `key` of each row's shard, then those of the table, empty where a shard lacks one.

    Raises:
        OutputError: a shard is damaged or cannot be read, or the types of two shards' columns differ.
    """
    tables = [_read_shard(path) for path in shards(folder, table)]
    nothing = pa.table({KEY: pa.array([], pa.string())})  # the result of a study that has only begun
    try:
        return pa.concat_tables([*tables, nothing], promote_options="permissive").to_pandas()
    except pa.ArrowException as error:
        raise OutputError(
            f"cannot read {folder / TABLES / table}: one column is of different types in different shards "
            f"({one_line(error)}); run the study again in another folder"
        ) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a store's manifest; raise OutputError if it is absent, damaged, foreign or of another version."""
    path = folder.expanduser() / MANIFEST
    damaged = OutputError(
        f"cannot read {path}: it is damaged; put it back from a copy, or choose another folder"
    )
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise OutputError(f"cannot use {folder}: its {MANIFEST} is not of a study; choose another folder")
    version, manifest = document.get("schema_version"), document.get("manifest")
    if type(version) is int and version != SCHEMA_VERSION:
        age, remedy = "a newer", UPGRADE
        if version < SCHEMA_VERSION:
            age, remedy = "an older", "run the study again in another folder"
        raise OutputError(
            f"cannot read {path}: {age} Mnemoscope wrote it (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); {remedy}"
        )
    if type(version) is not int or not isinstance(manifest, dict):
        raise damaged
    return manifest


def check_folder(folder: Path) -> None:
    """Raise OutputError unless a folder is new, empty or holds a readable store; write nothing."""
    folder = folder.expanduser()
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _unwritable(folder, error) from error
    # Files that a kill during the creation of a store leaves.
    others = [path.name for path in paths if path.name != LOCK and not path.match(_PARTIAL_MANIFEST)]
    if MANIFEST in others:
        read_manifest(folder)
    elif others:
        raise OutputError(
            f"cannot write {folder}: it holds something else ({others[0]!r}) and no study; "
            "choose a new or empty folder"
        )


def _locked(folder: Path) -> FileLock:
    """Make the folder if needed, and lock it against other writers."""
    # Not bound to a thread: a store may be closed by another thread than the one that opened it.
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(
            f"cannot write {folder}: it is already open, here or in another process; "
            "wait until that ends, or choose another folder"
        ) from error
    except FileNotFoundError as error:
        raise OutputError(f"cannot write {folder}: create the folder {folder.parent} first") from error
    except (OSError, NotImplementedError) as error:
        raise _unwritable(folder, error) from error
    return lock


def _create_or_compare(folder: Path, manifest: dict[str, Any]) -> None:
    tables = folder / TABLES
    if (folder / MANIFEST).exists():
        _refuse_difference(folder, read_manifest(folder), manifest)
    else:
        document = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "manifest": manifest}
        write_atomically(folder / MANIFEST, (json.dumps(document, indent=2) + "\n").encode())
    try:
        tables.mkdir(exist_ok=True)
        for leftover in [*folder.glob(_PARTIAL_MANIFEST), *tables.glob(f"*/.*{_ENDING}.*{PARTIAL}")]:
            leftover.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _refuse_difference(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = list(_differences("", found, wanted))
    if not differences:
        return
    more = len(differences) - _N_DIFFERENCES
    listed = "; ".join(differences[:_N_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
    raise OutputError(
        f"cannot continue the study in {folder}, which is another one: {listed}; "
        "choose another folder, or ask for the same study"
    )


def _differences(name: str, found: Any, wanted: Any) -> Iterator[str]:
    """Yield the differences of two JSON values, such as `options.rank is 10 there and 5 here`."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*found, *(key for key in wanted if key not in found)]:
            inner = f"{name}.{key}" if name else key
            if key not in found or key not in wanted:
                where, value = ("there", found[key]) if key in found else ("here", wanted[key])
                yield f"{inner} is only {where} ({_shortened(json.dumps(value))})"
            else:
                yield from _differences(inner, found[key], wanted[key])
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(f"{name}[{index}]", one, other)
    elif json.dumps(found) != json.dumps(wanted):  # unlike ==, tells 1 from true and 1.0
        texts = json.dumps(found), json.dumps(wanted)
        start = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
        one, other = (_shortened(text, start) for text in texts)
        yield f"{name} is {one} there and {other} here"


def _read_shard(path: Path) -> pa.Table:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        source = pa.BufferReader(content)
        table = parquet.ParquetFile(source, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise OutputError(f"cannot read {path}: it is damaged; delete it and run the study again") from error
    keys = pa.array([path.name.removesuffix(_ENDING)] * len(table), pa.string())
    # Without pandas' metadata, of which only the first shard's would count.
    return table.replace_schema_metadata(None).add_column(0, KEY, keys)


def _unwritable(folder: Path, error: Exception) -> OutputError:
    return OutputError(f"cannot write {folder}: {_cause(error)}; choose another folder")


def _unreadable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot read {path}: {_cause(error)}; check the name, and that you may read it")


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)


def one_line(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())


def _shortened(text: str, start: int = 0) -> str:
    """Cut a text to about sixty characters around a position."""
    first = max(0, start - 20)
    if len(text) <= 60:
        return text
    return f"{'...' * (first > 0)}{text[first : first + 60]}{'...' * (first + 60 < len(text))}"
