"""What a terminal shows of query neurons."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from mnemoscope.report.terminal.attribution import render_attribution
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.query import QueryNeurons, QueryTables


def shown(result: Attribution, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        render_attribution(result, console, full=True)
    return capture.get()


def section(result: Attribution, width: int = 100) -> str:
    text = shown(result, width)
    return text[text.index("What activates the value neurons") : text.index("direct: ")]


def sides(result: Attribution) -> tuple[QueryTables, QueryTables]:
    assert result.query_neurons is not None
    return result.query_neurons.of_attention, result.query_neurons.of_ffn


def as_shown(score: float) -> str:
    return f"{score:+.3f}".replace("-", "−")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 149, 150, 200])
def test_keeps_within_the_width(queried: Attribution, width: int) -> None:
    text = section(queried, width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    abreast = re.search(r"^Attention value neurons .*FFN value neurons ", text, re.MULTILINE)
    assert (abreast is not None) == (width >= 150)


def test_names_the_strongest_whatever_their_sign(queried: Attribution) -> None:
    text = section(queried)
    for tables in sides(queried):
        layers = tables.layers.loc[tables.layers["score"].abs().sort_values(ascending=False).index]
        names = [
            "embeddings" if row["kind"] == "embeddings" else f"FFN {row['layer']}"
            for _, row in layers.head(2).iterrows()
        ]
        scores = [as_shown(score) for score in layers["score"]]
        assert f"layers  {names[0]} {scores[0]}  {names[1]} {scores[1]}  " in text
        head = tables.heads.loc[tables.heads["score"].abs().idxmax()]
        assert f"heads   {head['layer']:.0f}.{head['head']:.0f} {as_shown(head['score'])}  " in text


def test_lists_the_first_neurons_and_marks_value_neurons(queried: Attribution) -> None:
    text = section(queried)
    for tables in sides(queried):
        for _, row in tables.ffn_neurons.iterrows():
            assert re.search(rf"{row['layer']}\.{row['neuron']} +{re.escape(as_shown(row['score']))} ", text)
    assert len(re.findall(r" query-value *\n", text)) == 2


def test_names_the_value_neurons_that_were_skipped(queried: Attribution) -> None:
    text = " ".join(section(queried, 149).split())
    attention, ffn = (tables.skipped.iloc[0] for tables in sides(queried))
    assert text.count("8 of the first 9 (left out") == 2
    name = f"{attention['layer']}.{attention['head']}.{attention['dim']} at {attention['position']}"
    assert f"left out because what they read nearly cancels: {name})" in text
    assert f"left out because what they read nearly cancels: {ffn['layer']}.{ffn['neuron']})" in text


def test_a_neuron_with_two_paths_is_asked_once(queried: Attribution) -> None:
    for tables in sides(queried):
        tables.value_neurons["skipped"] = False
        tables.value_neurons.loc[1] = tables.value_neurons.loc[0]
    assert len(re.findall(r"the first 8 *\n", section(queried))) == 2


def test_draws_tables_without_rows(queried: Attribution) -> None:
    queries = queried.query_neurons
    assert queries is not None
    empty = QueryNeurons.of_tables({name: table.iloc[:0] for name, table in queries.tables().items()})
    text = section(replace(queried, query_neurons=empty))
    assert len(re.findall(r"the first 0 *\n", text)) == 2
    assert len(re.findall(r"\nnone *\n", text)) == 2


def test_says_nothing_where_they_were_not_asked_for(result: Attribution) -> None:
    assert "activates" not in shown(result)


def test_says_that_they_could_not_be_had(result: Attribution) -> None:
    options = {**result.provenance.options, "query": True}
    asked = replace(result, provenance=replace(result.provenance, options=options))
    line = "What activates the value neurons: what this model's neurons read could not be found."
    assert line in shown(asked)
