"""A study as one HTML page that opens offline: no scripts, nothing fetched, light and dark."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope._io import check_destination, write_atomically
from mnemoscope.model.demo import MODEL_NAME
from mnemoscope.report.charts import apply_theme, svg_in_page
from mnemoscope.report.charts.study import CHARTS
from mnemoscope.report.export import EDITING, csv_bytes, file_name, flat, json_bytes
from mnemoscope.report.pages import data_address, origin_rows, page
from mnemoscope.report.sheets import Cell, Sheet
from mnemoscope.report.study_findings import study_findings
from mnemoscope.report.text import plain_number
from mnemoscope.report.tokens import visible
from mnemoscope.study.items import ITEMS, ItemTable
from mnemoscope.study.items.editing import CAUTION, editing
from mnemoscope.study.items.published import published
from mnemoscope.study.results import Study

_MOST_ROWS = 60
# Longer tables would make the page too heavy to open; `study export` writes them.
_MOST_BYTES = 1_000_000
_CAUTIONS = (
    "Means have 95 % bootstrap intervals over facts; below three facts there is none, and with few facts "
    "they are too narrow. The facts are not a sample of all facts, and those of one relation share words and "
    "answers.",
    "Zeroing takes a neuron to a state the model never has. What falls with random neurons of the same "
    "layers falls for that reason.",
    "Scores are direct effects on log p of the target at the last position. Query scores are shares of what "
    "value neurons read, not effects.",
    CAUTION,
)


def write_report(study: Study, path: str | Path) -> Path:
    """Write the page to an `.html` file, atomically.

    Returns:
        The path of the file.

    Raises:
        OutputError: the ending is another, the folder does not exist, the disk is full, or the study cannot
            be read or has no measured fact.
    """
    path = check_destination(Path(path), (".html",))
    write_atomically(path, render_report(study).encode())
    return path


def render_report(study: Study) -> str:
    """Return the page of a study; the page is deterministic."""
    manifest = study.manifest
    tables = {shown.name: shown.of(study) for item in ITEMS for shown in item.tables}
    facts = manifest["facts"]
    sizes = {name: str(manifest[name]) for name in ("n_layers", "n_heads", "d_head", "d_ff")}
    about_facts = {"facts": f"{facts['name']}: {facts['n']:,}", "SHA-256 of the facts": facts["sha256"]}
    paper = published(manifest["model"])
    name = MODEL_NAME if manifest["model"] == "demo" else manifest["model"].rsplit("/", 1)[-1]
    files = {
        file_name(item, shown, "csv"): csv_bytes(tables[shown.name])
        for item in ITEMS
        for shown in item.tables
    }
    return page(
        "study.html",
        name=visible(name),
        manifest=manifest,
        n_measured=int(tables["facts_kept"]["n_facts"].iloc[0]),
        unfinished=study.unfinished,
        findings=study_findings(tables),
        items=[
            (
                item,
                [_table(shown, tables[shown.name]) for shown in item.tables],
                [number for number in paper if number.item == item.number],
            )
            for item in ITEMS
        ],
        downloads={
            "tables.zip": data_address("application/zip", _zipped(files), _MOST_BYTES),
            EDITING: data_address("application/json", json_bytes(editing(study), indent=1)),
        },
        cautions=_CAUTIONS,
        origin=origin_rows(manifest, **sizes, **about_facts),
    )


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Pack files; the same files are the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _table(shown: ItemTable, table: pd.DataFrame) -> dict[str, Any]:
    """Return a table's title and chart, its first rows, and a note on the rows left out."""
    rows, note = _first(table)
    texts = _texts(flat(rows))
    headings = tuple(
        (
            str(name).replace("_percent", " (%)").replace("_", " "),
            "number" if pd.api.types.is_numeric_dtype(rows[name]) else "words",
        )
        for name in texts
    )
    return {
        "title": shown.title,
        "chart": svg_in_page(apply_theme(CHARTS[shown.name](table)).to_dict(), shown.name),
        "sheet": Sheet(headings, [list(map(Cell, row)) for row in texts.to_numpy()]),
        "note": note,
    }


def _first(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the first rows, of marked tables the first marked rows, and a note on the rows left out."""
    marks = [name for name in ("marked", "zeroed") if name in table]
    shown, words = table, "first"
    if marks:
        shown, words = table[table[marks[0]]].drop(columns=marks), f"first {marks[0]}"
    few = shown.head(_MOST_ROWS)
    if len(few) == len(table):
        return few, ""
    return few, f"The {words} {len(few):,} of {len(table):,} rows; tables.zip has all."


def _texts(table: pd.DataFrame) -> pd.DataFrame:
    """Write the cells as texts, each interval behind its mean."""
    with_ends = [name for name in table if f"{name}_low" in table and f"{name}_high" in table]
    ends = {f"{name}_{end}" for name in with_ends for end in ("low", "high")}
    found = {name: [_text(value) for value in table[name]] for name in table if name not in ends}
    for name in with_ends:
        pairs = zip(found[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        found[name] = [
            text
            if math.isnan(low) or math.isnan(high)
            else f"{text} [{plain_number(low)}, {plain_number(high)}]"
            for text, low, high in pairs
        ]
    return pd.DataFrame(found, dtype=object)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return visible(value) if value else ""
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return plain_number(value)
    return f"{value:,}" if not isinstance(value, bool) else ("yes" if value else "")
