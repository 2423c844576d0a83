"""Write the tables and the chart of `docs/circuits_benchmark.md` from a folder of `circuit compare`.

usage: python docs/make_circuit_tables.py FOLDER
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope.report.text import ratio_text
from mnemoscope.results.circuit import Circuit, CircuitComparison, Ratio

DOCS = Path(__file__).parent
TASKS = ("simple", "nounpp", "capitals", "ioi")
METHODS = ("relp", "atp", "eap-ig", "direct", "cna", "greedy")
COLUMNS = ("method", "nodes", "F", "K", "F ≥ 0.9 from", "within 0.1 from", "CPR", "CMD", "passes")


def read(folder: Path) -> CircuitComparison:
    """Read the circuits of a folder that are finished."""
    paths = {(task, method): folder / f"{task}.{method}.json" for task in TASKS for method in METHODS}
    circuits = {key: Circuit.load(path) for key, path in paths.items() if path.exists()}
    return CircuitComparison(circuits, pd.DataFrame())


def size(value: Any) -> str:
    """Write a size of the curve."""
    return "never" if pd.isna(value) else f"{value:,}"


def table(rows: list[tuple[str, ...]]) -> str:
    """Write a Markdown table whose first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" + "|--:" * (len(rows[0]) - 1) + "|", *lines[1:]])


def of_task(comparison: CircuitComparison, task: str) -> str:
    """Describe the pairs and nodes of a task, with a row for each method."""
    summary = comparison.summary()
    summary = summary[summary["task"] == task]
    rows = [COLUMNS]
    for row in summary.to_dict("records"):
        ratios = [
            ratio_text(Ratio(row[name], row[f"{name}_low"], row[f"{name}_high"]))
            for name in ("faithfulness", "completeness")
        ]
        sizes = [size(row[name]) for name in ("reaches", "within_0.1")]
        areas = [f"{row[name]:.2f}" for name in ("cpr", "cmd")]
        passes = f"{row['forward']:,} / {row['backward']:,}"
        rows.append((row["method"], f"{row['size']:,}", *ratios, *sizes, *areas, passes))
    circuit = comparison.circuits[task, str(summary["method"].iloc[0])]
    m = circuit.logit_differences
    pair, both = circuit.test[0], len([each for each in circuit.test if each in circuit.train])
    known = f" ({both} of the latter are training pairs too)" if both else ""
    return (
        f"### {task}\n\n"
        f"`{pair.clean}` / `{pair.counterfactual}`, answers `{pair.answer.strip()}` / "
        f"`{pair.counterfactual_answer.strip()}`. {len(circuit.train)} training and {len(circuit.test)} test "
        f"pairs{known} of {circuit.n_positions} tokens, {circuit.n_nodes:,} nodes; logit difference "
        f"{m['model']:.2f} nats in the model, {m['ablated']:.2f} with all nodes ablated.\n\n{table(rows)}\n"
    )


def main() -> None:
    """Write the page and `pictures/circuits.svg`."""
    comparison = read(Path(sys.argv[1]))
    tasks = dict.fromkeys(task for task, _ in comparison.circuits)
    made = "\n".join(of_task(comparison, task) for task in tasks)
    page = DOCS / "circuits_benchmark.md"
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"(?s)(<!-- tables -->\n).*(<!-- end -->)", lambda m: f"{m[1]}{made}{m[2]}", text)
    page.write_text(text, encoding="utf-8")
    folder = comparison.save(Path(sys.argv[1]) / "page")
    (DOCS / "pictures" / "circuits.svg").write_bytes((folder / "chart.svg").read_bytes())


if __name__ == "__main__":
    main()
