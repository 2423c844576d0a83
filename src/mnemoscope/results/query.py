"""Results about query neurons: tables, the query graph, and the ablation of query neurons."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from mnemoscope._io import LINKS_ENDINGS, check_destination, write_atomically
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.columns import (
    AGREEMENT_COLUMNS,
    COEFFICIENT_COLUMNS,
    EDGE_COLUMNS,
    NODE_COLUMNS,
    OF_FFN,
    records,
)
from mnemoscope.results.io import Saved
from mnemoscope.results.parts import NeuronKind
from mnemoscope.results.render import Displayed, quoted, report, strongest
from mnemoscope.results.targets import Provenance, Targets

if TYPE_CHECKING:
    import networkx


Key = Literal["gate", "up", "down"]


@dataclass(frozen=True, eq=False, repr=False)
class QueryTables(Displayed, Saved):
    """Components that activate the top value neurons of one kind, best first; see `SCHEMA` for the columns.

    Attributes:
        layers: every attention and FFN output and the embeddings; scores sum to those of the value neurons
            kept.
        heads: every head.
        ffn_neurons: the FFN neurons with the highest scores; the paper's *query-value* neurons are those that
            are value neurons too, the others are *query-only*.
        attention_neurons: the attention neurons with the highest scores, source positions added up.
        value_neurons: the value neurons, a row for each path by which they read the stream.
    """

    layers: pd.DataFrame
    heads: pd.DataFrame
    ffn_neurons: pd.DataFrame
    attention_neurons: pd.DataFrame
    value_neurons: pd.DataFrame

    def _short(self) -> list[str]:
        return [
            f"of {len(self.value_neurons)} readings of value neurons",
            strongest("heads", self.heads),
            strongest("FFN neurons", self.ffn_neurons),
        ]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name."""
        return vars(self).copy()

    @property
    def skipped(self) -> pd.DataFrame:
        """Value neurons left out of the scores."""
        place = ("layer", "neuron", "head", "dim", "position")
        names = [name for name in place if name in self.value_neurons]
        left_out = self.value_neurons.query("skipped")
        return left_out.drop_duplicates(names, ignore_index=True).filter(names)


@dataclass(frozen=True, eq=False, repr=False)
class QueryNeurons(Displayed, Saved):
    """Components that activate the value neurons of a result.

    Attributes:
        of_attention: those that activate its top attention value neurons.
        of_ffn: those that activate its top FFN value neurons.
    """

    of_attention: QueryTables
    of_ffn: QueryTables

    def _short(self) -> list[str]:
        sides = {"attention": self.of_attention, "FFN": self.of_ffn}
        return [
            "in nats of the value neurons' scores",
            *(
                strongest(f"{name} that activate {side} value neurons", getattr(tables, table))
                for side, tables in sides.items()
                for name, table in (("heads", "heads"), ("FFN neurons", "ffn_neurons"))
            ),
        ]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by its name in files, in the order of `QUERY_TABLES`."""
        return {
            f"query_{name}{ending}": table
            for ending, side in (("", self.of_attention), (OF_FFN, self.of_ffn))
            for name, table in side.tables().items()
        }

    @staticmethod
    def of_tables(tables: dict[str, pd.DataFrame]) -> QueryNeurons:
        """Restore the result from tables by their names in files."""
        names = [field.name for field in fields(QueryTables)]
        sides = ({name: tables[f"query_{name}{ending}"] for name in names} for ending in ("", OF_FFN))
        return QueryNeurons(*(QueryTables(**side) for side in sides))


@dataclass(frozen=True, eq=False, repr=False)
class QueryGraph(Displayed, Saved):
    """Value neurons and what activates them, as a directed graph.

    An edge goes from what writes to the residual stream to what reads it. Its score is the part of the
    reader's score, in nats, that belongs to the writer's share (docs/method.md#query-score), with the norms
    and all attention weights held fixed.

    Attributes:
        prompt: the prompt as given.
        tokens: its tokens as text.
        targets: the objective whose value neurons are followed.
        nodes: one row per node with the columns of `NODE_COLUMNS`.
        edges: one row per edge with the columns of `EDGE_COLUMNS`.
        explained: the share of all value neurons' scores that the edges to them explain; edges may cancel.
        provenance: model, versions and options.
    """

    prompt: str
    tokens: tuple[str, ...]
    targets: Targets
    nodes: pd.DataFrame
    edges: pd.DataFrame
    explained: float
    provenance: Provenance

    def _short(self) -> list[str]:
        return [
            f"of {self.targets.text} after {quoted(self.prompt)}",
            f"{len(self.nodes)} nodes, {len(self.edges)} edges, {self.explained:.0%} of the scores explained",
        ]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return nodes and edges."""
        return {"nodes": self.nodes, "edges": self.edges}

    def save(self, path: str | Path) -> Path:
        r"""Write the graph to a `.json`, `.csv` or `.graphml` file, whole or not at all; return its path.

        A `.csv` file has nodes and edges in one table, whose column `table` names which. In `.graphml` files
        characters that XML cannot hold are `\uXXXX` escapes.

        Raises:
            OutputError: another ending, or a folder that does not exist or cannot be written.
        """
        path = check_destination(Path(path), LINKS_ENDINGS)
        if path.suffix.lower() != ".graphml":
            return super().save(path)
        write_atomically(path, report("export").graphml(self))
        return path

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope links --json` prints."""
        return {
            **self.provenance.named("model", "revision"),
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            **self.targets.to_json(),
            "explained": self.explained,
            "nodes": [_known(row) for row in records(self.nodes, NODE_COLUMNS)],
            "edges": [_known(row) for row in records(self.edges, EDGE_COLUMNS)],
        }

    def chart(self) -> Any:
        """Draw the graph with Altair: tokens across, layers upwards, a line for each edge.

        >>> links.chart().save("links.svg")  # doctest: +SKIP
        """
        return report("charts.graph").query_graph(self)

    def to_networkx(self) -> networkx.DiGraph:
        """Convert to networkx, every column an attribute of its nodes and edges but for missing values.

        >>> networkx.write_graphml(links.to_networkx(), "links.graphml")  # doctest: +SKIP
        """
        import networkx

        graph = networkx.DiGraph(prompt=self.prompt, target=self.targets.text, explained=self.explained)
        for row in map(_known, records(self.nodes, NODE_COLUMNS)):
            graph.add_node(row.pop("id"), **row)
        for row in map(_known, records(self.edges, EDGE_COLUMNS)):
            graph.add_edge(row.pop("source"), row.pop("target"), **row)
        return graph


def _known(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not pd.isna(value)}


@dataclass(frozen=True, eq=False, repr=False)
class QueryAblation:
    """Effect of zeroing shallow query neurons on a target and on the value neurons that read them.

    Attributes:
        of: kind of the value neurons whose query neurons were zeroed.
        ablation: the target before and after, and after random FFN neurons of the same layers.
        coefficients: one row per value neuron, attention first, with the columns of `COEFFICIENT_COLUMNS`.
            FFN value neurons that were zeroed themselves have no row.
    """

    of: NeuronKind
    ablation: Ablation
    coefficients: pd.DataFrame

    def __repr__(self) -> str:
        return f"<QueryAblation of query neurons of {self.of} value neurons\n  {self.ablation!r}>"

    @property
    def agreement(self) -> pd.DataFrame:
        """Agreement of prediction and measurement, with the columns of `AGREEMENT_COLUMNS`.

        One row for each kind of value neurons and one for `"both"`; NaN where a number is undefined.
        """
        changes, kinds = relative_changes(self.coefficients), self.coefficients["kind"]
        rows = [{"kind": kind, **_agreement(changes.loc[kinds == kind])} for kind in ("attention", "ffn")]
        return pd.DataFrame([*rows, {"kind": "both", **_agreement(changes)}], columns=list(AGREEMENT_COLUMNS))

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope ablate --query --json` prints."""
        rows = records(self.coefficients, COEFFICIENT_COLUMNS)
        return {
            "of": self.of,
            "ablation": self.ablation.to_json(),
            "coefficients": [
                {name: None if pd.isna(value) else value for name, value in row.items()} for row in rows
            ],
            "agreement": records(self.agreement, AGREEMENT_COLUMNS),
        }


def relative_changes(coefficients: pd.DataFrame) -> pd.DataFrame:
    """Compute each coefficient's relative change: `measured`, `predicted`, `controls`; NaN for 0."""
    before = coefficients["before"].where(coefficients["before"] != 0)
    names = {"measured": "after", "predicted": "predicted", "controls": "control_mean"}
    return pd.DataFrame({name: coefficients[column] / before - 1 for name, column in names.items()})


def _agreement(changes: pd.DataFrame) -> dict[str, Any]:
    there = changes.dropna()
    correlations = {
        name: there.corr(method=name).loc["measured", "predicted"] for name in ("pearson", "spearman")
    }
    return {"n": len(there), **correlations, **there.mean().to_dict()}
