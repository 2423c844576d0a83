"""The table of columns says which columns every table has, and of which dtypes."""

from __future__ import annotations

import pandas as pd

import mnemoscope as ms
from circuit_tasks import told_apart
from mnemoscope.results.columns import SCHEMA
from support import words

PROMPT = words(5, 17, 80, 33)
TARGET = 40


def check(name: str, table: pd.DataFrame) -> None:
    declared = {column.name: column.dtype for column in SCHEMA[name]}
    text = str(pd.Series(["text"]).dtype)
    dtypes = {"str": text, "list": "object", "numbers": "object"}
    assert list(table) == list(declared), name
    assert not table.empty, name
    found = table.dtypes.astype(str).to_dict()
    assert found == {column: dtypes.get(dtype, dtype) for column, dtype in declared.items()}, name


def test_tables_have_the_declared_columns_and_dtypes(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, TARGET, top=10, neurons="all")
    graph = llama.query_graph(result, values=5, depth=2, width=5)
    tested = llama.compare_query_ablation(result, top=5)
    known = [ms.KnownFact((1, 2, 3), 40, "a"), ms.KnownFact((4, 5), 41, "b")]
    facts = llama.compare_ablation(PROMPT, TARGET, [ms.FFNNeuron(0, 1)], facts=known, relation="a", seeds=1)
    circuit = llama.circuit(told_apart(llama), size=40)
    compared = llama.compare(PROMPT, words(5, 17), target_a=TARGET, target_b=TARGET, top=5)
    examples = llama.neuron_examples([ms.FFNNeuron(1, 3)], [PROMPT], top=2)
    tables = result.tables() | {
        "example_windows": examples.windows,
        "example_signs": examples.signs,
        **{f"comparison_{name}": table for name, table in compared.tables().items()},
        **{f"circuit_{name}": table for name, table in circuit.tables().items()},
        "nodes": graph.nodes,
        "edges": graph.edges,
        "head_tokens": llama.head_tokens(PROMPT, 0, 1).table,
        "query_split": llama.query_split(result),
        "facts": facts.facts,
        "metrics": facts.controls.drop(columns=["seed", "kl"]),
        "coefficients": tested.coefficients,
        "agreement": tested.agreement,
    }
    assert tables.keys() == SCHEMA.keys()
    for name, table in tables.items():
        check(name, table)
