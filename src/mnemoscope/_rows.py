"""Items of JSON lines, JSON, CSV and Parquet files, and of data sets on the hub."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow
from pyarrow import parquet

from mnemoscope.errors import FactsError, MnemoscopeError, missing_extra

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARQUET = b"PAR1"
# Keys of the list of items in documents of TriviaQA and FreebaseQA.
_LISTS = ("Data", "Questions")


@dataclass(frozen=True)
class SourceItem:
    """An item of a source, such as a line or a row.

    Attributes:
        number: counted from 1 in its file.
        value: the parsed JSON value.
        problem: why there is no value; empty if there is one.
        promptless: whether the item is well written but gives no prompt.
        unit: noun that the number counts.
        file: its file, where the source is a folder.
    """

    number: int
    value: Any = None
    problem: str = ""
    promptless: bool = False
    unit: str = "line"
    file: str = ""

    @property
    def place(self) -> str:
        """Position in the source, in words."""
        return f"{self.file}, {self.unit} {self.number}" if self.file else f"{self.unit} {self.number}"


def file_items(path: Path, keys: frozenset[str]) -> Iterator[SourceItem]:
    """Yield the items of a file, whose kind follows from its ending or its first bytes.

    Args:
        path: the file.
        keys: columns to read of a Parquet file.

    Raises:
        FactsError: the file cannot be read or has no known kind.
    """
    with opened(path) as stream:
        kind = path.suffix.lower() if path.suffix.lower() in ENDINGS else _kind(path, stream)
        if kind in (".jsonl", ".ndjson"):
            yield from json_lines(stream)
        elif kind == ".json":
            yield from json_document(stream)
        elif kind == ".parquet":
            yield from parquet_rows(stream, keys)
        else:
            yield from csv_rows(stream, "\t" if kind == ".tsv" else ",")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read bytes; raise FactsError where opening or reading fails."""
    try:
        with path.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except MnemoscopeError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0]
        raise FactsError(f"cannot read {path}: {reason}; check the name") from error


def json_lines(stream: BinaryIO) -> Iterator[SourceItem]:
    """Yield the objects of JSON lines; empty lines are skipped."""
    for number, line in enumerate(stream, 1):
        content = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
        if not content.strip():
            continue
        try:
            yield SourceItem(number, _parsed(content))
        except ValueError as error:
            yield SourceItem(number, problem=f"{error}; write one object a line")


def json_document(stream: BinaryIO) -> Iterator[SourceItem]:
    """Yield the items of a JSON document, or of JSON lines in a file named like one."""
    content = stream.read().removeprefix(_BYTE_ORDER_MARK)
    if not content.strip():
        return
    try:
        document = _parsed(content)
    except ValueError as error:
        with contextlib.suppress(ValueError):
            if isinstance(_parsed(content.lstrip().partition(b"\n")[0]), dict):
                yield from json_lines(io.BytesIO(content))
                return
        line = getattr(error.__cause__, "lineno", 1)
        yield SourceItem(line, problem=f"{error}; mend the file, or write one object a line")
        return
    yield from (SourceItem(number, value, unit="item") for number, value in enumerate(_unfolded(document), 1))


def csv_rows(stream: BinaryIO, delimiter: str) -> Iterator[SourceItem]:
    """Yield the rows under a header, numbered by their first line; an empty cell is no value."""
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            number = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield SourceItem(number, problem=f"it is not valid CSV ({error}); look at its quotes")
                continue
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
            else:
                yield _csv_row(number, header, cells)


def parquet_rows(stream: BinaryIO, keys: frozenset[str]) -> Iterator[SourceItem]:
    """Yield the rows of a Parquet file, with the columns that are among the keys."""
    file = parquet.ParquetFile(stream)
    columns = [name for name in file.schema_arrow.names if name in keys]
    rows = (row for batch in file.iter_batches(columns=columns) for row in batch.to_pylist())
    yield from (SourceItem(number, row, unit="row") for number, row in enumerate(rows, 1))


def _kind(path: Path, stream: BinaryIO) -> str:
    beginning = cast(io.BufferedReader, stream).peek(len(_PARQUET))
    if beginning.startswith(_PARQUET):
        return ".parquet"
    content = beginning.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if not content or content.startswith((b"{", b"[")):
        return ".json"
    raise FactsError(
        f"{path} is no JSON or Parquet file and its ending is none of {', '.join(ENDINGS)}; "
        "give it the ending of what it is"
    )


def _parsed(content: bytes) -> Any:
    """Parse JSON; raise ValueError with the reason of a bad line."""
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError("it is not valid UTF-8; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a value too long or too deep"
        raise ValueError(f"it is not valid JSON ({reason})") from error


def _unfolded(document: Any) -> list[Any]:
    """Return a document's list of items, or the samples of a relation, each with its name and templates."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return [document]
    samples = document.get("samples")
    if isinstance(samples, list) and "prompt_templates" in document:
        common = {key: document[key] for key in ("name", "prompt_templates") if key in document}
        return [{**common, **sample} if isinstance(sample, dict) else sample for sample in samples]
    return next((document[key] for key in _LISTS if isinstance(document.get(key), list)), [document])


def _csv_row(number: int, header: list[str], cells: list[str]) -> SourceItem:
    if len(cells) != len(header):
        named = f"it has {len(cells)} cells and the header {len(header)}"
        return SourceItem(number, problem=f"{named}; put a cell that holds the delimiter in double quotes")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return SourceItem(number, problem="it is not valid UTF-8; save the file as UTF-8")
    return SourceItem(number, {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()})


PREFIX = "hub:"
NOTATION = f"{PREFIX}OWNER/NAME[@REVISION][:CONFIG[:SPLIT]]"
_SOURCE = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<config>[^:]*)(:(?P<split>[\w.-]+))?)?"
)


def hub_rows(source: str, keys: frozenset[str]) -> Iterator[SourceItem]:
    """Yield the rows of one split of a data set.

    Args:
        source: in `NOTATION`; config and split may be left out where there is only one.
        keys: columns to read.

    Raises:
        FactsError: the notation is wrong, the data set has several splits or cannot be fetched, or `datasets`
            is missing.
    """
    asked = _SOURCE.fullmatch(source.removeprefix(PREFIX))
    if asked is None:
        raise FactsError(f"{source!r} names no data set; write {NOTATION}")
    dataset = _fetched(source, asked["name"], asked["config"] or None, asked["split"], asked["revision"])
    columns = [name for name in dataset.column_names if name in keys]
    for number, row in enumerate(dataset.select_columns(columns), 1):
        yield SourceItem(number, dict(row), unit="row")


def _fetched(source: str, name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise FactsError(missing_extra(f"{source}, a data set of the hub,", "study")) from error
    if Path(name).exists():
        raise FactsError(
            f"{source} cannot be told from the folder {name} here, which would be read instead; go elsewhere"
        )
    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # the package's parts each raise their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FactsError(
            f"cannot read {source}: {reason}; check name, config and split ({NOTATION}), the network and, "
            "for a private one, your access token"
        ) from error
    if not isinstance(found, datasets.DatasetDict):
        return found
    splits = list(map(str, found))
    if len(splits) > 1:
        named = f"{PREFIX}{name}{f'@{revision}' if revision else ''}:{config or ''}:{splits[0]}"
        raise FactsError(f"{source} has the splits {', '.join(splits)}; name one, as in {named}")
    return found[splits[0]]
