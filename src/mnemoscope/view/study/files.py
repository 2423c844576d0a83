"""Tables and charts of a study as files for papers and other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope.atomic import PARTIAL
from mnemoscope.errors import OptionError, OutputError
from mnemoscope.study.opened import Study
from mnemoscope.study.store import encoded
from mnemoscope.study.tables.editing import editing
from mnemoscope.study.tables.items import ITEMS, Item, Shown
from mnemoscope.view.charts.look import housed, png, svg
from mnemoscope.view.csv_text import csv_bytes, flat
from mnemoscope.view.destination import write_into
from mnemoscope.view.study.charts import CHARTS

FORMAT = "mnemoscope export"
ABOUT, EDITING = "about.json", "editing.json"


def file_name(item: Item, shown: Shown, form: str) -> str:
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


def _chart(study: Study, shown: Shown, table: pd.DataFrame) -> Any:
    return housed(CHARTS[shown.name](table), shown.title, subtitle(study))


def subtitle(study: Study) -> str:
    """What stands under the title of every chart."""
    return f"{study.manifest['model']}, {len(study.known):,} facts"


FORMATS: dict[str, Callable[[Study, Shown, pd.DataFrame], bytes]] = {
    "csv": lambda _study, _shown, table: csv_bytes(table),
    "parquet": lambda _study, _shown, table: encoded(table),
    "svg": lambda study, shown, table: svg(_chart(study, shown, table).to_dict(), shown.name).encode(),
    "png": lambda study, shown, table: png(_chart(study, shown, table)),
    "tex": lambda _study, _shown, table: _latex(table),
}
