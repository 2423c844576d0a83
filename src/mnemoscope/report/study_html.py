"""A study as one HTML page that opens offline: no scripts, nothing fetched, light and dark."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
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
from mnemoscope.report.text import plain_number, signed
from mnemoscope.report.theme import KINDS
from mnemoscope.report.tokens import visible
from mnemoscope.results.columns import records
from mnemoscope.study.bootstrap import ALL
from mnemoscope.study.columns import RANDOM, SAME_LAYERS
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


def study_findings(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return up to six sentences: facts, layers, heads, value and query neurons, shared neurons.

    Args:
        tables: the items' tables by name.
    """
    about: dict[str, Callable[[pd.DataFrame], str]] = {
        "facts_kept": _facts,
        "value_layers": _layers,
        "value_zeroed": partial(_zeroed, parts="value neurons"),
        "query_zeroed": partial(_zeroed, parts="query neurons"),
        "heads_within_and_across": _heads,
        "shared": _shared,
    }
    found = [sentence(tables[name]) for name, sentence in about.items() if name in tables]
    return [sentence for sentence in found if sentence]


Row = dict[str, Any]


def _of_all(table: pd.DataFrame) -> list[Row]:
    return [row for row in records(table) if row["relation"] == ALL]


def _facts(table: pd.DataFrame) -> str:
    (whole,) = _of_all(table)
    n_relations = len(table) - 1
    return (
        f"The model knows {whole['n_kept']:,} of {whole['n_tried']:,} prompts; {whole['n_facts']:,} facts of "
        f"{n_relations} relation{'s' * (n_relations != 1)} are measured."
    )


def _changes(row: Row) -> str:
    """Write what the MRR does, with its interval: `falls by 51 % [48, 54]`."""
    mean, low, high = (row[f"mrr_drop_percent{end}"] for end in ("", "_low", "_high"))
    if mean < 0:
        mean, low, high = -mean, -high, -low
    ends = "" if math.isnan(low) or math.isnan(high) else f" [{plain_number(low)}, {plain_number(high)}]"
    return f"{'rises' if row['mrr_drop_percent'] < 0 else 'falls'} by {plain_number(mean)} %{ends}"


def _layers(table: pd.DataFrame) -> str:
    rows = sorted(_of_all(table), key=lambda row: -row["score"])[:3]
    named = [f"{KINDS[row['kind']]} {row['layer']} ({signed(row['score'])} nats)" for row in rows]
    return f"The layers that raise the targets most on average: {', '.join(named)}." if named else ""


def _zeroed(table: pd.DataFrame, parts: str) -> str:
    rows = {row["parts"]: row for row in (_of_all(table) if len(table) else ())}
    if not {parts, SAME_LAYERS} <= set(rows):
        return ""
    return (
        f"With a fact's {rows[parts]['n_neurons']:,.0f} {parts} zeroed the MRR "
        f"{_changes(rows[parts])}; with random neurons of the same layers it {_changes(rows[SAME_LAYERS])}."
    )


def _heads(table: pd.DataFrame) -> str:
    changes = [
        f"{_changes(row)} with " + ("random heads" if row["heads"] == RANDOM else f"heads {row['heads']}")
        for row in records(table)
    ]
    return f"The MRR {'; it '.join(changes)} zeroed." if changes else ""


def _shared(table: pd.DataFrame) -> str:
    rows = [row for row in records(table) if row["list"] == "value" and not math.isnan(row["share_percent"])]
    if not rows:
        return ""
    shares = [row["share_percent"] for row in rows]
    low, high = plain_number(min(shares)), plain_number(max(shares))
    most = max(row["by_chance_percent"] for row in rows)
    chance = "less than 0.1 %" if most < 0.1 else f"at most {plain_number(most)} %"
    share = low if low == high else f"{low} to {high}"
    return (
        f"Of a fact's value neurons {share} % (by relation) are value neurons of more than half of the "
        f"relation's facts; by chance {chance} would be."
    )
