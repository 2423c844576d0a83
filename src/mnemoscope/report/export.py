"""Exported files: CSV tables, comparisons, the query graph, and tables of a study."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mnemoscope._io import PARTIAL, check_destination, json_text, write_atomically, write_into
from mnemoscope.errors import OptionError, OutputError
from mnemoscope.report.charts import apply_theme, picture
from mnemoscope.report.charts.comparison import chart, chart_html
from mnemoscope.report.charts.study import CHARTS
from mnemoscope.report.tokens import visible, xml_text
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import LIST_COLUMNS
from mnemoscope.results.io import Saved
from mnemoscope.results.query import QueryGraph
from mnemoscope.study.items import ITEMS, ItemTable, StudyItem
from mnemoscope.study.items.editing import editing
from mnemoscope.study.results import Study
from mnemoscope.study.store import encoded

if TYPE_CHECKING:
    from mnemoscope.study.comparison import Comparison


# First characters of a cell that spreadsheets evaluate.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Write a table as CSV with six digits of each number; lists of tokens become visible text."""
    return _csv(flat(table), float_format="%.6g")


def flat(table: pd.DataFrame) -> pd.DataFrame:
    """Replace each list of tokens by one visible text."""
    lists = [name for name in ("promotes", "demotes") if name in table]
    return table.assign(
        **{name: table[name].map(lambda tokens: " ".join(map(visible, tokens))) for name in lists}
    )


def long_csv_bytes(result: Attribution | Saved) -> bytes:
    """Write all tables as one CSV; the column `table` names each row's table, lists of tokens are JSON."""
    kept = {name: table.copy() for name, table in result.tables().items() if not table.empty}
    for name, table in kept.items():
        table.insert(0, "table", name)
        for column in LIST_COLUMNS & set(table):
            table[column] = table[column].map(json_text)
    return _csv(pd.concat(kept.values(), ignore_index=True))


def _csv(table: pd.DataFrame, **options: Any) -> bytes:
    texts = table.select_dtypes(exclude="number").columns
    defused = table.assign(**{str(name): table[name].map(_defused) for name in texts})
    return defused.to_csv(index=False, lineterminator="\n", **options).encode("utf-8", "backslashreplace")


def _defused(cell: Any) -> Any:
    """Put `'` before a text that a spreadsheet would take for a formula; numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def json_bytes(value: Any, indent: int | None = None) -> bytes:
    """Write plain objects as a JSON file."""
    return f"{json_text(value, indent=indent)}\n".encode()


def graphml(graph: QueryGraph) -> bytes:
    r"""Write the query graph as GraphML, with `\uXXXX` for characters that XML cannot hold."""
    import networkx

    found = graph.to_networkx()
    for attributes in (found.graph, *found.nodes.values(), *found.edges.values()):
        for name, value in attributes.items():
            if isinstance(value, str):
                attributes[name] = xml_text(value)
    return ("\n".join(networkx.generate_graphml(found)) + "\n").encode()


_COMPARISON: dict[str, Callable[[Comparison], bytes]] = {
    ".json": lambda comparison: json_bytes(comparison.to_json()),
    ".parquet": lambda comparison: encoded(comparison.outcomes),
    ".csv": lambda comparison: csv_bytes(comparison.outcomes),
    ".svg": lambda comparison: picture(chart(comparison), "comparison"),
    ".png": lambda comparison: picture(chart(comparison), "comparison", "png"),
    ".html": lambda comparison: chart_html(comparison).encode(),
}


def save(comparison: Comparison, path: Path) -> Path:
    """Write a comparison's data (.json, .parquet, .csv) or chart (.svg, .png, .html), atomically.

    Returns:
        The path of the file.

    Raises:
        OutputError: the ending is another, the folder does not exist or is read-only, or the disk is full.
    """
    path = check_destination(path, tuple(_COMPARISON))
    write_atomically(path, _COMPARISON[path.suffix.lower()](comparison))
    return path


def save_summary(comparison: Comparison, folder: Path) -> None:
    """Write the summary of a comparison, all outcomes and the chart into a folder.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    about = {key: value for key, value in comparison.to_json().items() if key != "outcomes"}
    write_atomically(folder / "summary.parquet", encoded(comparison.summary()))
    write_atomically(folder / "summary.json", json_bytes(about))
    save(comparison, folder / "outcomes.parquet")
    save(comparison, folder / "chart.svg")


FORMAT = "mnemoscope export"
FORMATS = ("csv", "parquet", "svg", "png", "tex")
ABOUT, EDITING = "about.json", "editing.json"


def file_name(item: StudyItem, shown: ItemTable, form: str) -> str:
    """Name the file of a table or chart, such as `01_methods.csv`."""
    return f"{item.number:02d}_{shown.name}.{form}"


def export(study: Study, folder: str | Path, formats: Sequence[str] = ()) -> Path:
    """Write all tables and charts, the parts to edit (`editing.json`) and the manifest (`about.json`).

    Args:
        study: the study.
        folder: a new or empty folder, or a folder with an export of this study, which is replaced.
        formats: some of `FORMATS`; all if empty.

    Returns:
        The folder.

    Raises:
        OptionError: a format is none of `FORMATS`.
        OutputError: the folder holds other files or cannot be written, the disk is full, or the study cannot
            be read or has no measured fact.
    """
    chosen = tuple(dict.fromkeys(formats)) or FORMATS
    for form in chosen:
        if form not in FORMATS:
            raise OptionError(f"there is no format {form!r}; give some of {', '.join(FORMATS)}")
    folder = Path(folder).expanduser()
    _check_export_folder(study, folder)
    contents: dict[str, bytes] = {ABOUT: json_bytes({"format": FORMAT, "study": study.manifest}, indent=1)}
    for item in ITEMS:
        for shown in item.tables:
            table = shown.of(study)
            for form in chosen:
                contents[file_name(item, shown, form)] = _content(study, shown, table, form)
    contents[EDITING] = json_bytes(editing(study), indent=1)
    return write_into(folder, contents)


def _check_export_folder(study: Study, folder: Path) -> None:
    """Refuse a folder with other files than an export of this study; nothing is written.

    Raises:
        OutputError: the folder holds other files or cannot be read, or its parent does not exist.
    """
    if not folder.parent.is_dir():
        raise OutputError(f"cannot write {folder}: create the folder {folder.parent} first")
    try:
        names = sorted(path.name for path in folder.iterdir())
        about = json.loads((folder / ABOUT).read_bytes()) if ABOUT in names else None
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {folder}: {error}; choose another folder") from error
    ours = {ABOUT, EDITING} | {
        file_name(item, shown, form) for item in ITEMS for shown in item.tables for form in FORMATS
    }
    others = [name for name in names if name not in ours and not name.endswith(PARTIAL)]
    if others or (names and about is None):
        other = (others or names)[0]
        raise OutputError(
            f"cannot write {folder}: it holds something else ({other!r}); choose a new or empty folder"
        )
    if about is not None and about != {"format": FORMAT, "study": study.manifest}:
        raise OutputError(
            f"cannot write {folder}: it holds an export of another study; choose another folder"
        )


def _content(study: Study, shown: ItemTable, table: pd.DataFrame, form: str) -> bytes:
    """Return a table of a study, or its chart, as the content of a file."""
    if form == "csv":
        return csv_bytes(table)
    if form == "parquet":
        return encoded(table)
    if form == "tex":
        return _latex(table)
    subtitle = f"{study.manifest['model']}, {len(study.known):,} facts"
    drawn = apply_theme(CHARTS[shown.name](table), shown.title, subtitle)
    return picture(drawn, shown.name, form)


def _latex(table: pd.DataFrame) -> bytes:
    body = flat(table).to_latex(
        index=False, escape=True, na_rep="", float_format="%.4g", longtable=len(table) > 40
    )
    return body.encode()
