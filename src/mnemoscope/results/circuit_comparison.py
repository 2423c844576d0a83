"""Comparison of methods that find circuits, on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope.results.circuit import Circuit
from mnemoscope.results.columns import records
from mnemoscope.results.render import report


@dataclass(frozen=True, eq=False)
class CircuitComparison:
    """Circuits of several tasks by several methods.

    Attributes:
        circuits: by task and method.
        agreement: correlation of scores with exact patching of single nodes: `task, method, pearson,
            pearson_low, pearson_high, n_nodes`; empty unless asked for.
    """

    circuits: Mapping[tuple[str, str], Circuit]
    agreement: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Return one row for each task and method.

        Columns: `task, method`; `size`, `faithfulness` and `completeness` of the circuit, with intervals;
        `reaches`, the smallest size of the curve with F of 0.9 or more; `within_0.1` and `within_0.2`, the
        smallest from which F stays so near to 1 (missing where it does not); `cpr` and `cmd`; the cost in
        `forward` and `backward` passes of prompts.
        """
        rows = []
        for (task, method), circuit in self.circuits.items():
            row: dict[str, Any] = {"task": task, "method": method, "size": len(circuit)}
            for name in ("faithfulness", "completeness"):
                ratio = getattr(circuit, name)
                row |= {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
            high = circuit.curve.loc[circuit.curve["faithfulness"] >= 0.9, "size"]
            row["reaches"] = int(high.iloc[0]) if len(high) else None
            row |= {f"within_{epsilon:g}": circuit.smallest(epsilon) for epsilon in (0.1, 0.2)}
            rows.append({**row, **circuit.areas, **circuit.passes})
        table = pd.DataFrame(rows)
        return table.astype(dict.fromkeys(("reaches", "within_0.1", "within_0.2"), "Int64"))

    def curves(self) -> pd.DataFrame:
        """Return the curves of all circuits, with the columns `task` and `method` in front."""
        curves = [circuit.curve for circuit in self.circuits.values()]
        table = pd.concat(curves, keys=list(self.circuits), names=["task", "method"])
        return table.reset_index(["task", "method"]).reset_index(drop=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables by name."""
        return {"summary": self.summary(), "curves": self.curves(), "agreement": self.agreement}

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope circuit compare --json` prints."""
        tables = self.tables()
        summary = tables["summary"].astype(object)
        tables["summary"] = summary.where(summary.notna(), None)
        return {
            **next(iter(self.circuits.values())).provenance.named("model", "revision"),
            **{name: records(table) for name, table in tables.items()},
        }

    def chart(self) -> Any:
        """Draw F and K over sizes with Altair, a line for each method."""
        return report("charts.circuit").comparison(self)

    def save(self, folder: str | Path) -> Path:
        """Write tables and chart into a folder, and return it.

        Raises:
            OutputError: the folder's parent does not exist, or the folder cannot be written.
        """
        return report("circuit_files").write_comparison(self, Path(folder))
