"""Results about circuits: the nodes kept, their faithfulness and completeness, and the curve over sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from mnemoscope._io import check_destination, write_atomically
from mnemoscope.errors import OptionError
from mnemoscope.results import io
from mnemoscope.results.columns import CIRCUIT_TABLES, records
from mnemoscope.results.render import report
from mnemoscope.results.targets import Provenance

CircuitKind = Literal["ffn", "attention", "head"]
AblationValue = Literal["mean", "patch", "zero"]
NODE_COLUMNS = CIRCUIT_TABLES["nodes"]
CIRCUIT_ENDINGS = (".json", ".parquet", ".html", ".svg", ".png")


@dataclass(frozen=True)
class Pair:
    """Pair of prompts of equal token length with different answers, one token each.

    Attributes:
        clean: the prompt whose prediction the circuit explains.
        counterfactual: the prompt whose activations replace those of nodes outside the circuit.
        answer: next token of the clean prompt, leading space included.
        counterfactual_answer: next token of the counterfactual prompt.
    """

    clean: str
    counterfactual: str
    answer: str
    counterfactual_answer: str


class Ratio(NamedTuple):
    """Faithfulness or completeness, with the ends of its 95 % bootstrap interval over test pairs."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Circuit:
    """Set of nodes that alone do what the model does on a task (docs/method.md#circuits).

    Attributes:
        nodes: the nodes kept, in the order in which they were chosen, with the columns of the table
            `circuit_nodes` of `mnemoscope.results.columns`.
        edges: links among them, with the columns of `circuit_edges`.
        curve: the best-ranked nodes of the method by size, beside random controls, with the columns of
            `circuit_curve`.
        faithfulness: F of the circuit on test pairs: 1 = as good as the model, above 1 = overshoots.
        completeness: K, F of everything but the circuit: near 0 = nothing important was left out.
        areas: `cpr`, the area under F, and `cmd`, the mean of |1 - F|, over the curve's shares on a
            logarithmic axis; `cpr_linear` and `cmd_linear` on a linear one.
        method: the method that chose the nodes.
        kinds: kinds of nodes among which it chose; all others run as usual.
        ablation: the value of the nodes outside of the circuit.
        n_positions: number of tokens of the prompts, where each position has nodes of its own; else None.
        n_nodes: number of nodes among which the method chose.
        logit_differences: mean logit difference of the answers on test pairs, nats: of the `model`, and with
            all nodes `ablated`.
        passes: prompts run forwards, `forward`, and backwards, `backward`, to score and choose the nodes;
            the curve is not counted.
        train: pairs by which nodes were chosen; their counterfactual prompts give the mean values.
        test: pairs by which the circuit was measured.
        provenance: model, versions and options.
        notes: sentences on limits of the scores in this model.
    """

    nodes: pd.DataFrame
    edges: pd.DataFrame
    curve: pd.DataFrame
    faithfulness: Ratio
    completeness: Ratio
    areas: dict[str, float]
    method: str
    kinds: tuple[CircuitKind, ...]
    ablation: AblationValue
    n_positions: int | None
    n_nodes: int
    logit_differences: dict[str, float]
    passes: dict[str, int]
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]
    provenance: Provenance
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of nodes kept."""
        return len(self.nodes)

    def smallest(self, epsilon: float = 0.1) -> int | None:
        """Return the smallest size of the curve from which F stays within 1 - epsilon and 1 + epsilon.

        Returns:
            The size; None if F is outside at the last size.

        Raises:
            OptionError: epsilon is not above 0.
        """
        if not epsilon > 0:
            raise OptionError(f"epsilon is {epsilon}; give a number above 0, such as 0.1")
        smallest = None
        for row in reversed(records(self.curve, ("size", "faithfulness"))):
            if not abs(row["faithfulness"] - 1) <= epsilon:
                break
            smallest = row["size"]
        return smallest

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope circuit find --json` prints."""
        return {
            **self.provenance.named("model", "revision"),
            **self.description(),
            **{name: records(table) for name, table in self.tables().items()},
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables by name."""
        return {"nodes": self.nodes, "edges": self.edges, "curve": self.curve}

    def chart(self) -> Any:
        """Draw F and K over sizes with Altair, beside the random controls."""
        return report("charts.circuit").curves(self)

    def save(self, path: str | Path) -> Path:
        """Write the circuit (`.json`, `.parquet`), its chart (`.svg`, `.png`) or its report (`.html`).

        Raises:
            OutputError: another ending, or a folder that does not exist or cannot be written.
        """
        path = check_destination(Path(path), CIRCUIT_ENDINGS)
        ending = path.suffix.lower()
        if ending == ".json":
            content = io.json_bytes(self.description(), self.tables(), {})
        elif ending == ".parquet":
            content = io.parquet_bytes(self.description(), self.tables())
        else:
            content = report("circuit_files").rendered(self, ending)
        write_atomically(path, content)
        return path

    @staticmethod
    def load(path: str | Path) -> Circuit:
        """Read a circuit from a `.json` or `.parquet` file that `save` wrote.

        Raises:
            OutputError: the file is missing, damaged, no circuit, or of another schema version.
        """
        return io.load(Path(path), "circuit", Circuit._restored)

    def description(self) -> dict[str, Any]:
        """Return everything but the tables as plain objects."""
        return {
            "result": "circuit",
            "method": self.method,
            "kinds": list(self.kinds),
            "ablation": self.ablation,
            "n_positions": self.n_positions,
            "n_nodes": self.n_nodes,
            "size": len(self.nodes),
            "faithfulness": self.faithfulness._asdict(),
            "completeness": self.completeness._asdict(),
            "areas": self.areas,
            "smallest": {f"{epsilon:g}": self.smallest(epsilon) for epsilon in (0.1, 0.2)},
            "logit_differences": self.logit_differences,
            "passes": self.passes,
            "notes": list(self.notes),
            "train": [vars(pair) for pair in self.train],
            "test": [vars(pair) for pair in self.test],
            "provenance": vars(self.provenance),
        }

    @staticmethod
    def _restored(described: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Circuit:
        return Circuit(
            **{name: tables[name] for name in CIRCUIT_TABLES},
            faithfulness=_ratio(described["faithfulness"]),
            completeness=_ratio(described["completeness"]),
            areas={name: io.number(value) for name, value in described["areas"].items()},
            method=described["method"],
            kinds=tuple(described["kinds"]),
            ablation=described["ablation"],
            n_positions=described["n_positions"],
            n_nodes=described["n_nodes"],
            logit_differences=described["logit_differences"],
            passes=described["passes"],
            train=tuple(Pair(**pair) for pair in described["train"]),
            test=tuple(Pair(**pair) for pair in described["test"]),
            provenance=Provenance(**described["provenance"]),
            notes=tuple(described.get("notes", ())),
        )


def _ratio(described: dict[str, Any]) -> Ratio:
    return Ratio(**{name: io.number(value) for name, value in described.items()})


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
