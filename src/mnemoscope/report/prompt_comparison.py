"""A comparison of two predictions as one HTML page, in the frame of all reports."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd

from mnemoscope.report.export import json_bytes
from mnemoscope.report.findings import Sentence, Token, model_title, targets_parts
from mnemoscope.report.pages import report_page
from mnemoscope.report.prompt_comparison_figure import compared_map
from mnemoscope.report.readable import readable
from mnemoscope.report.repeat import comparison_command, comparison_python
from mnemoscope.report.sheets import Cell, Row, Sheet, largest_of, number_cell, number_column, sheet_of
from mnemoscope.report.text import comparison_certificates, part_in_mixture, signed, value_facts
from mnemoscope.report.theme import KINDS
from mnemoscope.report.tokens import visible
from mnemoscope.results.columns import records
from mnemoscope.results.prompt_comparison import PromptComparison

_MOST_ROWS = 100  # of a table
_MOST_BYTES = 350_000


def render_html(result: PromptComparison) -> str:
    """Return the page of a comparison: A, B and Diff of layers, heads and neurons."""
    sides = {"A": readable(result.a), "B": readable(result.b)}
    a, b = (targets_parts(side.targets.answers) for side in sides.values())
    return report_page(
        "comparison.html",
        (f"Why {model_title(result.provenance)} says ", *a, " in A and ", *b, " in B"),
        result.provenance,
        json_bytes(result.to_json()),
        _MOST_BYTES,
        sides={
            name: {
                "prompt": side.prompt,
                "target": targets_parts(side.targets.answers),
                "against": targets_parts(side.targets.against),
                "facts": value_facts(side.targets),
            }
            for name, side in sides.items()
        },
        findings=_findings(result),
        map=compared_map(result, "map"),
        layers=sheet(result, "layers", len(result.layers)),
        panels={
            "heads": ("Heads", sheet(result, "heads")),
            "ffn": ("FFN neurons", sheet(result, "ffn_neurons")),
            "attention": (
                "Attention neurons, positions added up",
                sheet(result, "attention_neurons_summed"),
            ),
        },
        certificates=comparison_certificates(result),
        command=comparison_command(result),
        python=comparison_python(result),
    )


def _part(name: str, row: Row) -> str:
    """Name the part of a row, as `24.1005`; a block by its kind and layer."""
    if name == "layers":
        return f"{KINDS[row['kind']]} of layer {row['layer']}"
    return part_in_mixture(row)


def sheet(result: PromptComparison, name: str, most: int = _MOST_ROWS) -> Sheet:
    """Return the first rows of a table, with A, B and Diff in nats with three decimals."""
    table: pd.DataFrame = getattr(result, name)
    rows = records(table.head(most))
    largest = largest_of(rows, "diff")

    def difference(row: Row) -> Cell:
        share = row["diff"] / largest if largest and math.isfinite(row["diff"]) else 0.0
        return number_cell(row["diff"], signed(row["diff"]), share)

    def promoted(row: Row) -> str:
        return " ".join(map(visible, row["promotes"][:8])) or "–"

    return sheet_of(
        rows,
        ("part", "", partial(_part, name)),
        number_column("A", "a"),
        number_column("B", "b"),
        ("Diff", "bar", difference),
        *([("promotes", "tokens", promoted)] if "promotes" in table else []),
    )


def _findings(result: PromptComparison) -> list[Sentence]:
    """Return a sentence on the largest difference of each kind of part."""
    names = {
        "layers": "the ",
        "heads": "head ",
        "ffn_neurons": "neuron ",
        "attention_neurons_summed": "attention neuron ",
    }
    found: list[Sentence] = []
    for name, kind in names.items():
        table: pd.DataFrame = getattr(result, name)
        if table.empty:
            continue
        (row,) = records(table.head(1))
        part = f"{kind}{_part(name, row)}"
        sentence: list[str | Token] = [
            f"{part[0].upper()}{part[1:]} differs most: {signed(row['a'])} nats in A, "
            f"{signed(row['b'])} in B (Diff {signed(row['diff'])})"
        ]
        if len(row.get("promotes", ())):
            sentence += [", and promotes ", Token(visible(row["promotes"][0]))]
        found.append((*sentence, "."))
    return found
