"""Exported files: CSV tables, comparisons, the query graph, and tables of a study."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mnemoscope._io import LINKS_ENDINGS, PARTIAL, check_destination, json_text, write_atomically, write_into
from mnemoscope.errors import OptionError, OutputError
from mnemoscope.report.charts.study import CHARTS
from mnemoscope.report.charts.theme import apply_theme, png, svg
from mnemoscope.report.tokens import visible
from mnemoscope.results.query import QueryGraph
from mnemoscope.study.items import ITEMS, ItemTable, StudyItem
from mnemoscope.study.items.exports import editing
from mnemoscope.study.results import Study
from mnemoscope.study.store import encoded

if TYPE_CHECKING:
    from mnemoscope.study.comparison import Comparison


_DIGITS = "%.6g"


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Six digits of every number, tokens with their hidden signs visible."""
    return (
        flat(table)
        .to_csv(index=False, float_format=_DIGITS, lineterminator="\n")
        .encode("utf-8", "backslashreplace")
    )


def flat(table: pd.DataFrame) -> pd.DataFrame:
    """With lists of tokens as one text each."""
    lists = [name for name in ("promotes", "demotes") if name in table]
    return table.assign(
        **{name: table[name].map(lambda tokens: " ".join(map(visible, tokens))) for name in lists}
    )


# Characters that XML 1.0 cannot hold, whatever their escape, and the one that its readers change.
_NOT_IN_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def save_links(links: QueryGraph, path: Path) -> Path:
    r"""Write links in the form that the ending names, whole or not at all.

    What a token has that XML cannot hold is in a `.graphml` file as its `\uXXXX` escape.

    Returns:
        The path of the file.

    Raises:
        OutputError: another ending, or a folder that does not exist or cannot be written.
    """
    path = check_destination(path, LINKS_ENDINGS)
    writers: dict[str, Callable[[QueryGraph], str]] = {
        ".json": lambda links: json_text(links.to_json()),
        ".graphml": _graphml,
    }
    write_atomically(path, f"{writers[path.suffix.lower()](links)}\n".encode())
    return path


def _graphml(links: QueryGraph) -> str:
    import networkx

    graph = links.to_networkx()
    every_part = (graph.graph, *graph.nodes.values(), *graph.edges.values())
    for attributes in every_part:
        attributes.update({name: _for_xml(value) for name, value in attributes.items()})
    return "\n".join(networkx.generate_graphml(graph))


def _for_xml(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return _NOT_IN_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", value)


ENDINGS = (".json", ".parquet", ".svg", ".png", ".html")


def save(comparison: Comparison, path: Path) -> Path:
    """Write a comparison in the form its ending names, whole or not at all.

    Returns:
        The path of the file.

    Raises:
        OutputError: another ending, no such folder, it cannot be written, or the disk is full.
    """
    path = check_destination(path, ENDINGS)
    ending = path.suffix.lower()
    if ending == ".json":
        content = _json_bytes(comparison.to_json())
    elif ending == ".parquet":
        content = _parquet_bytes(comparison.outcomes)
    else:
        from mnemoscope.report.charts.comparison import chart_bytes

        content = chart_bytes(comparison, ending.removeprefix("."))
    write_atomically(path, content)
    return path


def check_folder(folder: Path) -> Path:
    """Tell early, before a model is opened, that a comparison cannot be kept in a folder.

    Returns:
        The folder, with a leading `~` expanded; it need not be there yet.

    Raises:
        OutputError: it is a file, or there is no folder that it could be made in.
    """
    folder = folder.expanduser()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write {folder}: it is a file; name a folder")
    if not folder.parent.is_dir():
        raise OutputError(f"cannot write {folder}: create the folder {folder.parent} first")
    return folder


def save_summary(comparison: Comparison, folder: Path) -> None:
    """Write what a comparison came to into a folder: its summary, all outcomes and the chart.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    summary = comparison.summary()
    about = {key: value for key, value in comparison.to_json().items() if key != "outcomes"}
    write_atomically(folder / "summary.parquet", _parquet_bytes(summary))
    write_atomically(folder / "summary.json", _json_bytes(about))
    save(comparison, folder / "outcomes.parquet")
    save(comparison, folder / "chart.svg")


def _json_bytes(value: dict[str, object]) -> bytes:
    return (json_text(value) + "\n").encode()


def _parquet_bytes(table: pd.DataFrame) -> bytes:
    return table.to_parquet(engine="pyarrow", index=False, write_page_checksum=True)


FORMAT = "mnemoscope export"
ABOUT, EDITING = "about.json", "editing.json"


def file_name(item: StudyItem, shown: ItemTable, form: str) -> str:
    """Such as `01_methods.csv`."""
    return f"{item.number:02d}_{shown.name}.{form}"


def export(study: Study, folder: str | Path, formats: Sequence[str] = ()) -> Path:
    """Write every table and chart, what to edit (`editing.json`) and what they are of (`about.json`).

    Args:
        study: the study.
        folder: a new or empty folder, or one with an export of the same study, whose files are replaced.
        formats: of `FORMATS`; none for all.

    Returns:
        The folder.

    Raises:
        OptionError: another format.
        OutputError: the folder holds something else or cannot be written, the disk is full, or the study
            cannot be read or has no measured fact.
    """
    chosen = tuple(dict.fromkeys(formats)) or tuple(FORMATS)
    for form in chosen:
        if form not in FORMATS:
            raise OptionError(f"there is no format {form!r}; give some of {', '.join(FORMATS)}")
    folder = Path(folder).expanduser()
    about = {"format": FORMAT, "study": study.manifest}
    check_export_folder(study, folder)
    contents: dict[str, bytes] = {ABOUT: json_bytes(about)}
    for item in ITEMS:
        for shown in item.tables:
            table = shown.of(study)
            for form in chosen:
                contents[file_name(item, shown, form)] = FORMATS[form](study, shown, table)
    contents[EDITING] = json_bytes(editing(study))
    return write_into(folder, contents)


def check_export_folder(study: Study, folder: Path) -> None:
    """Refuse a folder that holds anything but an export of this study; nothing is written.

    Raises:
        OutputError: it holds something else or cannot be read, or its parent is not there.
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


def json_bytes(value: Any) -> bytes:
    """Readable JSON of plain values."""
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _latex(table: pd.DataFrame) -> bytes:
    body = flat(table).to_latex(
        index=False, escape=True, na_rep="", float_format="%.4g", longtable=len(table) > 40
    )
    return body.encode()


def _chart(study: Study, shown: ItemTable, table: pd.DataFrame) -> Any:
    return apply_theme(CHARTS[shown.name](table), shown.title, subtitle(study))


def subtitle(study: Study) -> str:
    """What stands under the title of every chart."""
    return f"{study.manifest['model']}, {len(study.known):,} facts"


FORMATS: dict[str, Callable[[Study, ItemTable, pd.DataFrame], bytes]] = {
    "csv": lambda _study, _shown, table: csv_bytes(table),
    "parquet": lambda _study, _shown, table: encoded(table),
    "svg": lambda study, shown, table: svg(_chart(study, shown, table).to_dict(), shown.name).encode(),
    "png": lambda study, shown, table: png(_chart(study, shown, table)),
    "tex": lambda _study, _shown, table: _latex(table),
}
