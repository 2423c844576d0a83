"""Results of one or several studies, read from their folders, also while the studies run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from pyarrow import dataset

from mnemoscope.errors import OptionError, OutputError, missing_extra
from mnemoscope.study.columns import FACT, FACTS, KIND, OUTCOMES, READINGS, SUMS, TABLES, VALUE_NEURONS
from mnemoscope.study.filter import to_measure, to_paraphrase
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.store import KEY, MANIFEST, read_manifest, read_table, shards

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_CHECKED = dataset.ParquetFileFormat(
    default_fragment_scan_options=dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
)
_INTEGERS = {pa.int32(): "Int32", pa.int64(): "Int64"}


class Study:
    """Results of one study; each table is read once, when it is first used.

    Attributes:
        folder: of the study.
        manifest: model, facts and options.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Wrap a folder; callers use `Study.open`."""
        self.folder, self.manifest = folder, manifest
        self._tables: dict[str, pd.DataFrame] = {}

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """Open a folder; raise OutputError if it has no study, a damaged manifest or another version's."""
        folder = Path(folder).expanduser()
        manifest, found = {}, ""
        if not folder.exists():
            found = f"no folder {folder}"
        elif not folder.is_dir():
            found = f"no folder but a file {folder}"
        elif not (folder / MANIFEST).exists():
            found = f"no study in {folder}"
        elif (manifest := read_manifest(folder)).get("kind") != KIND:
            found = f"no study in {folder}, but a {manifest.get('kind')}"
        if found:
            raise OutputError(f"there is {found}; name a folder that `mnemoscope study run --out` made")
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def options(self) -> StudyOptions:
        """Options of the study."""
        return StudyOptions(**self.manifest["options"])

    def table(self, name: str) -> pd.DataFrame:
        """Return all rows of one of `columns.TABLES`; integers that may be missing are nullable.

        Raises:
            OptionError: the table is unknown.
            OutputError: a shard is damaged or cannot be read.
        """
        if name not in TABLES:
            raise OptionError(f"a study has no table {name!r}; name one of {', '.join(TABLES)}")
        if name not in self._tables:
            self._tables[name] = _typed(read_table(self.folder, name), TABLES[name].schema)
        return self._tables[name].copy()

    @cached_property
    def known(self) -> pd.DataFrame:
        """Known facts that are measured so far, rows of `facts` by number."""
        facts = self.table(FACTS.name)
        kept = facts.loc[facts["kept"].astype(bool)]
        return kept.loc[kept[FACT].isin(self._with_outcome("none"))].sort_values(FACT, ignore_index=True)

    @cached_property
    def paraphrases(self) -> pd.DataFrame:
        """Further wordings of facts, with value and query neurons only; rows of `facts`."""
        wanted = to_paraphrase(self.table(FACTS.name), self.options)
        found = set(self.table(VALUE_NEURONS.name)[FACT]) - set(self.known[FACT])
        return wanted.loc[wanted[FACT].isin(found)].reset_index(drop=True)

    @cached_property
    def unfinished(self) -> str:
        """Progress of an unfinished study, in words; empty if the study is finished."""
        kept = to_measure(self.table(FACTS.name))
        if kept.empty or len(self.known) < len(kept):
            return f"unfinished: {len(self.known):,} of {len(kept):,} known facts are measured"
        wordings = to_paraphrase(self.table(FACTS.name), self.options)
        n_summed = int(kept["relation"].value_counts().clip(upper=self.options.summed).sum())
        wanted = {
            "the other wordings": set(wordings[FACT]) <= set(self.table(VALUE_NEURONS.name)[FACT]),
            "the sums of all neurons": len(self.table(SUMS.name)[FACT].unique()) == n_summed,
            "the zeroed heads": set(kept[FACT]) <= self._with_outcome("heads"),
            "the neurons in vocabulary space": set(kept["relation"])
            <= set(self.table(READINGS.name)["relation"]),
        }
        missing = [name for name, there in wanted.items() if not there]
        return f"unfinished: {' and '.join(missing)} are not all there" if missing else ""

    def sql(self, query: str) -> pd.DataFrame:
        """Run a DuckDB query over views of the tables, without access to other files.

        Raises:
            OptionError: DuckDB is not installed, or cannot run the query.
        """
        with _connection() as connection:
            for name in TABLES:
                connection.register(name, _rows(self.folder, name))
            return _answer(connection, query)

    def _with_outcome(self, experiment: str) -> set[int]:
        outcomes = self.table(OUTCOMES.name)
        return set(outcomes.loc[outcomes["experiment"] == experiment, FACT])


class Studies(tuple[Study, ...]):
    """Several studies, such as one set of facts in two models."""

    __slots__ = ()

    @classmethod
    def open(cls, folders: Sequence[str | Path]) -> Studies:
        """Open each folder; raise OptionError if two have one name, OutputError if one is no study."""
        studies = cls(map(Study.open, folders))
        names = [study.name for study in studies]
        for name in names:
            if names.count(name) > 1:
                raise OptionError(f"two of the studies' folders are named {name!r}; rename one")
        return studies

    def sql(self, query: str) -> pd.DataFrame:
        """Run a DuckDB query over the rows of all studies; the column `study` names each row's folder.

        Raises:
            OptionError: DuckDB is not installed, or cannot run the query.
        """
        with _connection() as connection:
            for name in TABLES:
                parts = []
                for number, study in enumerate(self):
                    connection.register(f"{name}_{number}", _rows(study.folder, name))
                    title = study.name.replace("'", "''")
                    parts.append(f"select '{title}' as study, * from {name}_{number}")
                connection.execute(f"create view {name} as {' union all '.join(parts)}")
            return _answer(connection, query)


def _typed(table: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
    """Drop the key, and restore integers that a missing value made floats."""
    if table.empty:
        return schema.empty_table().to_pandas()
    table = table.drop(columns=KEY)
    floats = {
        field.name: _INTEGERS[field.type]
        for field in schema
        if field.type in _INTEGERS and not pd.api.types.is_integer_dtype(table[field.name])
    }
    return table.astype(floats)


def _rows(folder: Path, table: str) -> dataset.Dataset | pa.Table:
    schema = TABLES[table].schema
    paths = [str(path) for path in shards(folder, table)]
    return dataset.dataset(paths, schema=schema, format=_CHECKED) if paths else schema.empty_table()


@contextmanager
def _connection() -> Iterator[DuckDBPyConnection]:
    try:
        import duckdb
    except ImportError as error:
        raise OptionError(missing_extra("a query", "study")) from error
    with duckdb.connect(":memory:") as connection:
        yield connection


def _answer(connection: DuckDBPyConnection, query: str) -> pd.DataFrame:
    import duckdb

    # A query may come from others: it reaches the views and no file, network or Python variable.
    for setting in (
        "enable_external_access = false",
        "python_enable_replacements = false",
        "lock_configuration = true",
    ):
        connection.execute(f"set {setting}")
    try:
        if not connection.extract_statements(query):
            raise OptionError("the query is empty; give one such as 'select * from facts'")
        return connection.execute(query).df()
    except (duckdb.Error, pa.ArrowException) as error:
        reason = str(error).split("\n\nLINE ")[0]
        raise OptionError(
            f"cannot answer the query: {' '.join(reason.split())}; see docs/studies_tables.md"
        ) from error
