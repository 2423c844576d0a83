"""A study as one HTML page that opens offline: no scripts, nothing fetched, light and dark."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mnemoscope._io import check_destination, write_atomically
from mnemoscope.report.charts.study import CHARTS
from mnemoscope.report.charts.theme import apply_theme, svg_in_page
from mnemoscope.report.export import EDITING, csv_bytes, file_name, flat, json_bytes
from mnemoscope.report.html import digest, templates
from mnemoscope.report.text import plain_number
from mnemoscope.report.tokens import visible
from mnemoscope.study.items import ITEMS, ItemTable, StudyItem
from mnemoscope.study.items.exports import CAUTION, Published, editing, published
from mnemoscope.study.results import Study

_MOST_ROWS = 60
# A longer table makes the page too heavy to open; `study export` writes it.
_MOST_BYTES = 1_000_000
_CAUTIONS = (
    "Means have 95 % bootstrap intervals over facts; below three facts there is none, and with few facts "
    "they are too narrow. The facts are no sample of all facts, and those of one relation share words and "
    "answers.",
    "Zeroing takes a neuron to a state the model never has. What falls with random neurons of the same "
    "layers falls for that reason.",
    "Scores are direct effects on log p of the target at the last position. Query scores are shares of what "
    "value neurons read, not effects.",
    CAUTION,
)


@dataclass(frozen=True)
class Sheet:
    """A table of the page.

    Attributes:
        shown: which one.
        headings: of its columns.
        rows: texts of the cells of the first rows.
        texts: which columns are words rather than numbers.
        note: what is left out, in words; empty if nothing.
        chart: the chart, as SVG.
        download: name and address of its data; the address is empty if it is too long for the page.
    """

    shown: ItemTable
    headings: list[str]
    rows: list[list[str]]
    texts: list[bool]
    note: str
    chart: Markup
    download: tuple[str, str]


def write_report(study: Study, path: str | Path) -> Path:
    """Write the page, whole or not at all.

    Args:
        study: the study.
        path: of an `.html` file.

    Returns:
        The path of the file.

    Raises:
        OutputError: another ending, no such folder, the disk is full, or the study cannot be read or has no
            measured fact.
    """
    path = check_destination(Path(path), (".html",))
    write_atomically(path, render_report(study).encode())
    return path


def render_report(study: Study) -> str:
    """The whole page as text; the same study gives the same bytes."""
    style = templates().get_template("report.css").render() + templates().get_template("study.css").render()
    paper = published(study.manifest["model"])
    return (
        templates()
        .get_template("study.html")
        .render(
            study=study,
            model=study.manifest["model"],
            style=Markup(style),
            style_hash=digest(style),
            items=[
                (item, [_sheet(study, item, shown) for shown in item.tables], _of(paper, item))
                for item in ITEMS
            ],
            editing=(EDITING, _address("application/json", json_bytes(editing(study)))),
            cautions=_CAUTIONS,
            origin=_origin(study),
        )
    )


def _of(paper: tuple[Published, ...], item: StudyItem) -> list[Published]:
    return [number for number in paper if number.item == item.number]


def _sheet(study: Study, item: StudyItem, shown: ItemTable) -> Sheet:
    table = shown.of(study)
    chart = svg_in_page(apply_theme(CHARTS[shown.name](table)).to_dict(), shown.name)
    content = csv_bytes(table)
    address = _address("text/csv", content) if len(content) <= _MOST_BYTES else ""
    rows, note = _first(table)
    cells = _cells(flat(rows))
    return Sheet(
        shown=shown,
        headings=[str(name).replace("_percent", " (%)").replace("_", " ") for name in cells],
        rows=[list(row) for row in cells.itertuples(index=False, name=None)],
        texts=[not pd.api.types.is_numeric_dtype(rows[name]) for name in cells],
        note=note,
        chart=chart,
        download=(file_name(item, shown, "csv"), address),
    )


def _first(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows that a page has room for, and what is left out in words."""
    marks = [name for name in ("marked", "zeroed") if name in table]
    shown, words = table, "first"
    if marks:
        shown, words = table[table[marks[0]]].drop(columns=marks), f"first {marks[0]}"
    few = shown.head(_MOST_ROWS)
    if len(few) == len(table):
        return few, ""
    return few, f"The {words} {len(few):,} of {len(table):,} rows; the file has all."


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """The cells as texts; an interval stands behind its mean."""
    found = {}
    for name in table:
        if str(name).removesuffix("_low").removesuffix("_high") in table and str(name).endswith(
            ("_low", "_high")
        ):
            continue
        values = [_text(value) for value in table[name]]
        if f"{name}_low" in table and f"{name}_high" in table:
            ends = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
            values = [value + _interval(*pair) for value, pair in zip(values, ends, strict=True)]
        found[name] = values
    return pd.DataFrame(found, dtype=object)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return visible(value) if value else ""
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return plain_number(value)
    return f"{value:,}" if not isinstance(value, bool) else ("yes" if value else "")


def _interval(low: float, high: float) -> str:
    if math.isnan(low) or math.isnan(high):
        return ""
    return f" [{plain_number(low)}, {plain_number(high)}]"


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _origin(study: Study) -> dict[str, str]:
    manifest = study.manifest
    facts = manifest["facts"]
    sizes = ("n_layers", "n_heads", "d_head", "d_ff")
    return {
        "model": manifest["model"],
        "revision": str(manifest["revision"]),
        "architecture": manifest["architecture"],
        "weights": manifest["dtype"],
        **{name: str(manifest[name]) for name in sizes},
        "facts": f"{facts['name']}: {facts['n']:,}",
        "SHA-256 of the facts": facts["sha256"],
        **{f"version of {name}": version for name, version in manifest["versions"].items()},
        **{f"option {name}": str(value) for name, value in manifest["options"].items()},
    }
