"""Writes docs/studies_schema.md from the tables' own description: `python docs/make_schema.py`."""

from __future__ import annotations

from pathlib import Path

from mnemoscope.study.columns import PARQUET, TABLES
from mnemoscope.study.store import SCHEMA_VERSION

PAGE = Path(__file__).with_name("studies_schema.md")


def page() -> str:
    """The page as it should be."""
    lines = [
        "# The tables of a study",
        "",
        f"Schema {SCHEMA_VERSION}, written by `python docs/make_schema.py`; a test holds it.",
        "",
        "A study is a folder:",
        "",
        "```text",
        "DIR/manifest.json               model, revision, dtype, versions, options, hash of the facts",
        "DIR/tables/TABLE/KEY.parquet    rows of a table; a file (a shard) for each finished task",
        "```",
        "",
        "All shards of a table together are the table. `fact` joins them. Layers, heads, dims, neurons and",
        "positions count from 0, places from 1; scores and log probabilities are in nats.",
        "",
    ]
    for table in TABLES.values():
        lines += [f"## {table.name}", "", table.meaning, "", "| column | type | meaning |", "|---|---|---|"]
        lines += [
            f"| `{column.name}` | {PARQUET[column.dtype]} | {column.meaning} |" for column in table.columns
        ]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
