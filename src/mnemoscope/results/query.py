"""Results about query neurons: tables, the query graph, and the ablation of query neurons.

A query score says how much of what a value neuron reads was written by a query neuron. If that is so, zeroing
query neurons lowers the coefficients by what they wrote, and with them the target's probability. What is
predicted holds the norms and the attention weights fixed; what is measured holds nothing fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

from mnemoscope.results.ablation import Ablation
from mnemoscope.results.columns import (
    AGREEMENT_COLUMNS,
    COEFFICIENT_COLUMNS,
    EDGE_COLUMNS,
    NODE_COLUMNS,
    OF_FFN,
    QUERY_TABLES,
    records,
)
from mnemoscope.results.render import report
from mnemoscope.results.targets import Provenance, Targets

if TYPE_CHECKING:
    import networkx


Kind = Literal["attention", "ffn"]
Key = Literal["gate", "up", "down"]


@dataclass(frozen=True, eq=False)
class QueryTables:
    """What activates the top value neurons of one kind, best first.

    `score` is the query score in nats (docs/method.md#query-score): the sum over the value neurons of their
    score times the component's share of what they read. `inner_product` is raw: the mean over all value
    neurons, skipped ones too, of what the component gives to the pre-activation, towards the sign that all
    components together give it. In the tables of neurons, `position` is where the largest part of the
    score is read and `coefficient` is the neuron's there, as it enters its projection.

    Attributes:
        layers: every attention and FFN output (`bias` is the part of the score that is no neuron's) and
            the embeddings, which are `layer` -1. The scores sum to those of the value neurons kept.
        heads: every head.
        ffn_neurons: the FFN neurons with the highest scores; `value_neuron` says which are in the list of
            FFN value neurons too (the paper's *query-value*; the others are *query-only*).
        attention_neurons: the attention neurons with the highest scores, source positions added up.
        value_neurons: those that were asked about, a row for each path by which they read the stream:
            `inner_product` is the sum over all components, `constant` what biases of the reading
            module add, `remainder` the share of the components' magnitudes that is left of it, and
            `skipped` whether the neuron was left out of the scores because too little is.
    """

    layers: pd.DataFrame
    heads: pd.DataFrame
    ffn_neurons: pd.DataFrame
    attention_neurons: pd.DataFrame
    value_neurons: pd.DataFrame

    @property
    def skipped(self) -> pd.DataFrame:
        """The value neurons left out of the scores, by name."""
        place = ("layer", "neuron", "head", "dim", "position")
        names = [name for name in place if name in self.value_neurons]
        left_out = self.value_neurons.query("skipped")
        return left_out.drop_duplicates(names, ignore_index=True).filter(names)


@dataclass(frozen=True, eq=False)
class QueryNeurons:
    """What activates the value neurons of a result.

    Attributes:
        of_attention: the components that activate its top attention value neurons.
        of_ffn: those that activate its top FFN value neurons.
    """

    of_attention: QueryTables
    of_ffn: QueryTables

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by its name in files, in the order of `QUERY_TABLES`."""
        sides = {"": self.of_attention, OF_FFN: self.of_ffn}
        return {
            name: getattr(sides[OF_FFN if name.endswith(OF_FFN) else ""], _attribute(name))
            for name in QUERY_TABLES
        }

    @staticmethod
    def of_tables(tables: dict[str, pd.DataFrame]) -> QueryNeurons:
        """Put together from tables by their names in files."""
        sides = (
            QueryTables(
                **{
                    _attribute(name): tables[name]
                    for name in QUERY_TABLES
                    if name.endswith(OF_FFN) == (ending == OF_FFN)
                }
            )
            for ending in ("", OF_FFN)
        )
        return QueryNeurons(*sides)


def _attribute(name: str) -> str:
    return name.removeprefix("query_").removesuffix(OF_FFN)


@dataclass(frozen=True, eq=False)
class QueryGraph:
    """Value neurons and what activates them, as a directed graph.

    A link goes from what writes to the residual stream to what reads it. Its `score` is the part of the
    reader's score, in nats, that its share gives to the writer (docs/method.md#query-score), with the norm
    and all attention weights held fixed; `inner_product` is raw, what the writer gives to the reader's
    pre-activation.

    Attributes:
        prompt: the prompt as given.
        tokens: its tokens as text.
        targets: whose value neurons are followed.
        nodes: one row per node with the columns of `NODE_COLUMNS`. `kind` is `"ffn"`, `"attention"` (a
            value neuron), `"head"`, `"embeddings"` or `"biases"`; `position` is where it reads the stream,
            with the `token` there, and `writes` the position at which it writes; `depth` counts steps from
            the nearest value neuron. `value_score` is a value neuron's own score and `query_score` what the
            node gives to its readers. `explained` is the share of both that its links explain (missing if
            it was not taken apart) and can be over 1 where links cancel.
        edges: one row per link with the columns of `EDGE_COLUMNS`; `share` is of the reader's score. Gated
            FFN neurons have a raw inner product for each path, heads none.
        explained: the share of all value neurons' scores that the links to them explain.
        provenance: model, versions and options.
    """

    prompt: str
    tokens: tuple[str, ...]
    targets: Targets
    nodes: pd.DataFrame
    edges: pd.DataFrame
    explained: float
    provenance: Provenance

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope links --json` prints."""
        return {
            "model": self.provenance.model,
            "revision": self.provenance.revision,
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            **self.targets.to_json(),
            "explained": self.explained,
            "nodes": [_known(row) for row in records(self.nodes, NODE_COLUMNS)],
            "edges": [_known(row) for row in records(self.edges, EDGE_COLUMNS)],
        }

    def chart(self) -> Any:
        """The graph as an Altair chart: tokens across, layers upwards, a line for each link.

        >>> links.chart().save("links.svg")  # doctest: +SKIP
        """
        return report("charts.graph").query_graph(self)

    def to_networkx(self) -> networkx.DiGraph:
        """The graph with every column as an attribute of its nodes and edges; missing ones are left out.

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


@dataclass(frozen=True, eq=False)
class QueryAblation:
    """What zeroing shallow query neurons does to a target and to the value neurons that read them.

    Attributes:
        of: of which kind the value neurons are whose query neurons were zeroed.
        ablation: the target before and after, and after random FFN neurons of the same layers.
        coefficients: one row per value neuron, attention first, with the columns of `COEFFICIENT_COLUMNS`
            (`neuron`, or `head` and `dim`, are missing where they name nothing). The coefficient `before`, as
            `predicted` and as measured `after`, then mean and standard deviation over the random controls:
            what enters the output projection from that position (`alpha * value`, through the norm before it
            where there is one) or the down projection. FFN value neurons that were zeroed themselves have
            no row, and controls that zero one do not count for it.
    """

    of: Kind
    ablation: Ablation
    coefficients: pd.DataFrame

    @property
    def agreement(self) -> pd.DataFrame:
        """How well the prediction agrees with the measurement, with the columns of `AGREEMENT_COLUMNS`.

        One row for each kind of value neurons and one for `"both"`. All is said of the change of the
        coefficient relative to its size, such as `after / before - 1`: the correlations between the measured
        and the predicted change, and the mean change measured, predicted and after random controls. A number
        is NaN where there is none; a coefficient that is 0 before counts nowhere.
        """
        changes, kinds = relative_changes(self.coefficients), self.coefficients["kind"]
        rows = [{"kind": kind, **_agreement(changes.loc[kinds == kind])} for kind in get_args(Kind)]
        return pd.DataFrame([*rows, {"kind": "both", **_agreement(changes)}], columns=list(AGREEMENT_COLUMNS))

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope ablate --query --json` prints."""
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
    """Change of each coefficient relative to its size: `measured`, `predicted`, `controls`; NaN for 0."""
    before = coefficients["before"].where(coefficients["before"] != 0)
    names = {"measured": "after", "predicted": "predicted", "controls": "control_mean"}
    return pd.DataFrame({name: coefficients[column] / before - 1 for name, column in names.items()})


def _agreement(changes: pd.DataFrame) -> dict[str, Any]:
    there = changes.dropna()
    correlations = {
        name: there.corr(method=name).loc["measured", "predicted"] for name in ("pearson", "spearman")
    }
    return {"n": len(there), **correlations, **there.mean().to_dict()}
