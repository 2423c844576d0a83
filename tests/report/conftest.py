"""A result with everything that can go wrong on a screen or in a file, built by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import EDGE_COLUMNS, NODE_COLUMNS, QUERY_TABLES, TABLES
from mnemoscope.results.query import QueryGraph, QueryNeurons
from mnemoscope.results.targets import Cost, Provenance, Target, Targets

TOKENS = ("The", " capital", "\n", "\t", "[bold]", "\u202eabc", "🙂", " of")
DTYPES: dict[str, str] = {
    **dict.fromkeys(("layer", "head", "neuron", "dim", "position"), "int64"),
    **dict.fromkeys(
        ("score", "direct", "total", "mediated", "coefficient", "attention", "lower", "upper"), "float32"
    ),
    **dict.fromkeys(("inner_product", "bias", "constant", "remainder"), "float64"),
    **dict.fromkeys(("kind", "token", "path"), "str"),
    **dict.fromkeys(("value_neuron", "skipped"), "bool"),
    **dict.fromkeys(("promotes", "demotes"), "object"),
}
_COLUMNS = TABLES | QUERY_TABLES
MakeResult = Callable[..., Attribution]


def _table(name: str, n_rows: int, shape: dict[str, int], tokens: tuple[str, ...]) -> pd.DataFrame:
    random = np.random.default_rng(list(name.encode()))
    lowers = name.startswith("suppressing_")
    words = [" Tokyo", "[/red]", "日本", " of\u200b", "<script>alert(1)</script>", "e\u0301"]
    columns: dict[str, Any] = {}
    names = _COLUMNS[name]
    for column in names:
        if column == "token":
            columns[column] = [tokens[position] for position in columns["position"]]
        elif DTYPES[column] == "int64":
            columns[column] = random.integers(0, shape[column], n_rows)
        elif column in ("promotes", "demotes"):
            columns[column] = [list(random.permutation(words)) for _ in range(n_rows)]
            columns[column] = [[str(word) for word in row] for row in columns[column]]
        elif column in ("kind", "path"):
            columns[column] = ["ffn" if column == "kind" else "up"] * n_rows
        elif column in ("value_neuron", "skipped"):
            columns[column] = np.arange(n_rows) == 1
        elif column in ("direct", "score"):
            scores = -np.sort(-np.abs(random.standard_normal(n_rows)))
            columns[column] = -scores if lowers else scores
        elif column == "mediated":
            columns[column] = columns["total"] - columns["direct"]
        else:
            columns[column] = random.standard_normal(n_rows)
    frame = pd.DataFrame(columns)
    return frame.astype({column: DTYPES[column] for column in names})


def _every_part(shape: dict[str, int], names: tuple[str, ...], **labels: list[Any]) -> pd.DataFrame:
    """One row for each part, with random effects of both signs, best score first."""
    grids = [labels.get(name, list(range(shape.get(name, 0)))) for name in names]
    frame = pd.MultiIndex.from_product(grids, names=names).to_frame(index=False)
    random = np.random.default_rng(7)
    frame["direct"] = random.standard_normal(len(frame)).astype("float32")
    frame["total"] = random.standard_normal(len(frame)).astype("float32")
    frame["mediated"] = frame["total"] - frame["direct"]
    return frame.sort_values("direct", ascending=False, ignore_index=True)


@pytest.fixture(scope="session")
def make_result() -> MakeResult:
    """A maker of results of any size: `make_result(n_layers=6, n_heads=4, n_rows=5, **fields)`."""

    def make(
        n_layers: int = 6,
        n_heads: int = 4,
        n_rows: int = 5,
        tokens: tuple[str, ...] = TOKENS,
        **fields: Any,
    ) -> Attribution:
        shape = {
            "layer": n_layers,
            "head": n_heads,
            "neuron": 64,
            "dim": 16,
            "position": len(tokens),
        }
        tables = {name: _table(name, n_rows, shape, tokens) for name in TABLES}
        tables["layers"] = _every_part(shape, ("layer", "kind"), kind=["attention", "ffn"]).astype(
            {"kind": "str"}
        )
        tables["heads"] = _every_part(shape, ("layer", "head"))
        tables["ffn_scores"] = tables["ffn_scores"].iloc[:0]
        tables["attention_scores"] = tables["attention_scores"].iloc[:0]
        values: dict[str, Any] = {
            "prompt": "".join(tokens),
            "tokens": tokens,
            "token_ids": tuple(range(len(tokens))),
            "targets": Targets((Target(7, " Tokyo", 1, 0.854, -0.158),), (), -0.158),
            "certified": True,
            "tolerance": 4e-4,
            **tables,
            "query_neurons": None,
            "value_of_embeddings": -12.5,
            "telescoping_error": 3e-6,
            "costs": {name: Cost(46080, 200) for name in TABLES if "neurons" in name},
            "provenance": Provenance(
                "demo",
                "abc123",
                "LlamaForCausalLM",
                "float32",
                {"torch": "2"},
                {"top": n_rows, "by": "direct", "effects": True},
            ),
        }
        return Attribution(**{**values, **fields})

    return make


@pytest.fixture
def result(make_result: MakeResult) -> Attribution:
    """A small result with odd tokens."""
    return make_result()


@pytest.fixture
def queried(result: Attribution) -> Attribution:
    """The same result with query neurons; the second value neuron of each kind was skipped."""
    shape = {"layer": 6, "head": 4, "neuron": 64, "dim": 16, "position": len(result.tokens)}
    tables = {name: _table(name, 9, shape, result.tokens) for name in QUERY_TABLES}
    for name, table in tables.items():
        if name.startswith("query_layers"):
            table.loc[0, ["layer", "kind"]] = [-1, "embeddings"]
    return replace(result, query_neurons=QueryNeurons.of_tables(tables))


@pytest.fixture
def ordered_by_total(result: Attribution) -> Attribution:
    """The same result as `attribute(by="total")` gives it, every list in the order of its totals."""
    tables = {
        name: table.sort_values("total", ascending=name.startswith("suppressing_"), ignore_index=True)
        for name, table in result.tables().items()
        if "total" in table
    }
    options = {**result.provenance.options, "by": "total"}
    return replace(result, **tables, provenance=replace(result.provenance, options=options))


@pytest.fixture
def without_effects(result: Attribution) -> Attribution:
    """The same result as `attribute(effects=False)` gives it."""
    unknown = np.float32("nan")
    tables = {
        name: table.assign(total=unknown, mediated=unknown)
        for name, table in result.tables().items()
        if "total" in table
    }
    options = {**result.provenance.options, "effects": False}
    return replace(result, **tables, provenance=replace(result.provenance, options=options))


ODD_TOKENS = ("The", "\x00[bold]\uffff\r", " of")


def node(name: str, depth: int, value: float = 0.0, query: float = 0.0, **fields: Any) -> dict[str, Any]:
    kind, _, index = name.partition(" ")
    layer, *rest = (int(part) for part in index.split(".")) if index else (None, None)
    number = {"neuron" if kind == "ffn" else "head": rest[0]} if rest else {}
    return {
        **dict.fromkeys(NODE_COLUMNS),
        "id": name,
        "kind": kind,
        "layer": layer,
        **number,
        "dim": 5 if kind == "attention" else None,
        "position": 2,
        "token": ODD_TOKENS[2],
        "writes": 2,
        "depth": depth,
        "value_score": value,
        "query_score": query,
        "explained": float("nan"),
        "skipped": False,
        **fields,
    }


def edge(source: str, target: str, score: float, share: float) -> dict[str, Any]:
    return {**dict.fromkeys(EDGE_COLUMNS), "source": source, "target": target, "score": score, "share": share}


@pytest.fixture
def links() -> QueryGraph:
    odd = {"position": 1, "token": ODD_TOKENS[1]}
    nodes = [
        node("ffn 5.7", 0, 2.0, explained=0.75),
        node("ffn 4.3", 0, 1.0, 0.5, explained=-0.25),
        node("attention 3.1", 0, 0.25, skipped=True),
        node("head 3.2", 1, 0.0, 1.0, explained=0.1, **odd),
        node("ffn 2.8", 1, 0.0, -0.5, explained=1.5),
        node("embeddings", 2, 0.0, 0.1, **odd),
        node("biases", 2, 0.0, 0.1),
    ]
    edges = [
        edge("head 3.2", "ffn 5.7", 1.0, 0.5),
        edge("ffn 4.3", "ffn 5.7", 0.5, 0.25),
        edge("ffn 2.8", "ffn 4.3", -0.375, -0.25),
        edge("ffn 2.8", "head 3.2", 0.05, 0.05),
        edge("embeddings", "head 3.2", 0.05, 0.05),
        edge("biases", "ffn 2.8", -0.02, 0.04),
    ]
    table = pd.DataFrame(nodes, columns=list(NODE_COLUMNS))
    for name in ("layer", "neuron", "head", "dim"):
        table[name] = table[name].astype("Int64")
    origin = Provenance("demo", "abc", "A", "float32", {}, {"values": 2, "depth": 2, "width": 2})
    return QueryGraph(
        prompt="".join(ODD_TOKENS) + "\ud800",
        tokens=ODD_TOKENS,
        targets=Targets((Target(7, " Tokyo", 1, 0.854, -0.158),), (), -0.158),
        nodes=table,
        edges=pd.DataFrame(edges, columns=list(EDGE_COLUMNS)).astype(dict.fromkeys(EDGE_COLUMNS[2:], float)),
        explained=0.345,
        provenance=origin,
    )
