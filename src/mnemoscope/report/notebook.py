"""Results in a notebook: a few small tables and a static picture, as one HTML fragment."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial, singledispatch
from typing import Any

import pandas as pd
from markupsafe import Markup
from rich.console import Console

from mnemoscope.report.charts import picture
from mnemoscope.report.charts.attribution import figures
from mnemoscope.report.findings import Sentence, ablation_finding, findings
from mnemoscope.report.pages import data_address, templates
from mnemoscope.report.readable import readable
from mnemoscope.report.terminal.ablation import render_ablation
from mnemoscope.report.terminal.attribution import render_attribution
from mnemoscope.report.terminal.comparison import render_comparison
from mnemoscope.report.terminal.query import query_section, render_links
from mnemoscope.report.terminal.vocabulary import (
    render_examples,
    render_head,
    render_neuron,
    render_prediction,
)
from mnemoscope.report.text import (
    Effects,
    ablation_rows,
    divergence,
    parts_words,
    percent,
    places,
    plain_number,
    signed,
    targets_words,
    value_facts,
    with_spread,
)
from mnemoscope.report.tokens import middle_left_out, visible
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import records
from mnemoscope.results.examples import NeuronExamples
from mnemoscope.results.parts import row_name
from mnemoscope.results.prediction import HeadTokens, NeuronTokens, Prediction
from mnemoscope.results.prompt_comparison import PromptComparison
from mnemoscope.results.query import QueryGraph, QueryNeurons, QueryTables
from mnemoscope.results.ranking import Ranking
from mnemoscope.results.render import score_column

_ROWS = 5
_MOST_RANKED = 20  # rows of a ranking, and edges of a graph
_MOST_TOKENS = 6
_WIDTH = 100  # cells of the plain text
_LONGEST_PROMPT = 400  # characters


Cell = str | Markup
Row = dict[str, Any]


@dataclass(frozen=True)
class _Table:
    """A small table; cells are texts or, as markup, tokens."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[Cell, ...]]


def _table(title: str, rows: Iterable[Row], cells: dict[str, Callable[[Row], Cell]]) -> _Table:
    """Return a table of rows with the functions of its cells by heading."""
    return _Table(title, tuple(cells), [tuple(cell(row) for cell in cells.values()) for row in rows])


@dataclass(frozen=True)
class _Summary:
    """The parts of a result that a notebook shows.

    Attributes:
        tables: the tables.
        target: the target in words.
        tokens: tokens of the prompt.
        facts: numbers by name.
        findings: sentences on the result.
        picture: alternative text and address of a picture; empty if there is none.
        note: the last line.
    """

    tables: list[_Table]
    target: str = ""
    tokens: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Sentence] = field(default_factory=list)
    picture: dict[str, str] = field(default_factory=dict)
    note: str = ""


def summary_html(shown: object) -> str:
    """Return a result as a fragment of HTML without scripts."""
    summary = _summary(readable(shown) if hasattr(shown, "tokens") else shown)
    head, tail = middle_left_out([len(visible(token)) for token in summary.tokens], _LONGEST_PROMPT)
    tokens = [_token(text) for text in summary.tokens]
    return (
        templates()
        .get_template("notebook.html")
        .render(
            summary=summary,
            start=tokens[:head],
            end=tokens[len(tokens) - tail :],
            left_out=len(tokens) - head - tail,
        )
    )


_TERMINAL: dict[type, Callable[[Any, Console], None]] = {
    Attribution: render_attribution,
    PromptComparison: partial(render_comparison, rows=_ROWS),
    NeuronExamples: partial(render_examples, rows=_ROWS),
    Prediction: render_prediction,
    Ablation: render_ablation,
    NeuronTokens: render_neuron,
    HeadTokens: render_head,
    QueryGraph: render_links,
    QueryNeurons: lambda shown, console: console.print(query_section(shown, _WIDTH, _ROWS)),
}


def summary_text(shown: object) -> str:
    """Return a result as the terminal shows it, without colours, or else its `repr`."""
    draw = _TERMINAL.get(type(shown))
    if draw is None:
        return repr(shown)
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, color_system=None, highlight=False, force_jupyter=False)
    draw(shown, console)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


@singledispatch
def _summary(shown: object) -> _Summary:
    raise TypeError(f"{type(shown).__name__} has no summary")


@_summary.register
def _(shown: Attribution) -> _Summary:
    origin, figure = shown.provenance, figures(shown)[0]
    certainty = "certified" if shown.certified else "not certified"
    return _Summary(
        [
            _parts(shown, "heads", "Heads", "layer.head"),
            _parts(shown, "ffn_neurons", "FFN neurons", "layer.neuron", "promotes"),
            _parts(shown, "attention_neurons", "Attention neurons", "layer.head.dim", "token"),
        ],
        targets_words(shown.targets),
        shown.tokens,
        facts=value_facts(shown.targets),
        findings=findings(shown),
        picture=_picture(f"{figure.title}. {figure.words}", figure.chart(shown), figure.name),
        note=f"{visible(origin.model)} · {visible(origin.architecture)} · {origin.dtype} · lists {certainty}",
    )


@_summary.register
def _(shown: PromptComparison) -> _Summary:
    words = (f"{targets_words(side.targets)} after {visible(side.prompt)}" for side in (shown.a, shown.b))
    sides = {"A": "a", "B": "b", "Diff (nats)": "diff"}
    return _Summary(
        [
            _scores("Heads", shown.heads.head(_ROWS), "layer.head", sides),
            _scores("FFN neurons", shown.ffn_neurons.head(_ROWS), "layer.neuron", sides),
            _scores("Attention neurons", shown.attention_neurons_summed.head(_ROWS), "layer.head.dim", sides),
        ],
        " and ".join(f"{name}: {each}" for name, each in zip("AB", words, strict=True)),
        note=f"{visible(shown.provenance.model)} · direct effects, Diff is B − A",
    )


@_summary.register
def _(shown: NeuronExamples) -> _Summary:
    def window(row: Row) -> Markup:
        return Markup("").join(
            Markup("<b>{}</b>").format(_token(token)) if place == row["position"] else _token(token)
            for place, token in enumerate(row["tokens"])
        )

    best = shown.windows[shown.windows["group"] == "highest"].head(_MOST_RANKED)
    cells = {"neuron": row_name, "activation": _cell("activation"), "window": window}
    corpus = shown.corpus
    return _Summary(
        [_table("Highest activations", records(best), cells)],
        "Where neurons fire",
        facts={"corpus": visible(corpus.name), "tokens": f"{corpus.n_tokens:,}"},
        note=visible(shown.provenance.model),
    )


@_summary.register
def _(shown: Prediction) -> _Summary:
    cells = {
        "rank": _cell("rank", str),
        "token": _cell("token", _token),
        "probability": _cell("probability", percent),
        "log p": _cell("log_probability"),
    }
    return _Summary([_table("Likeliest next tokens", records(shown.table), cells)], tokens=shown.tokens)


@_summary.register
def _(shown: Ablation) -> _Summary:
    def metric(name: str, written: Callable[[float], str]) -> Callable[[Row], Cell]:
        return lambda row: with_spread(row[name], row["spread"].get(name), written) if name in row else ""

    cells = {
        "": _cell("when", str),
        "rank": _cell("rank", str),
        "probability": metric("probability", percent),
        "log p": metric("log_probability", signed),
        "KL on plain text (nats per token)": metric("kl", divergence),
    }
    spread = ", mean ± standard deviation" if len(shown.controls) > 1 else ""
    return _Summary(
        [_table(f"{parts_words(shown)}, {shown.how}", ablation_rows(shown), cells)],
        visible(shown.target[1]),
        shown.tokens,
        findings=[ablation_finding(shown)],
        note=f"random: parts of the same kind and layers{spread}",
    )


@_summary.register
def _(shown: Ranking) -> _Summary:
    kinds = {"ffn": ("FFN neurons", "layer.neuron"), "attention": ("Attention neurons", "layer.head.dim")}
    title, heading = kinds[shown.kind]
    neurons = shown.neurons.head(_MOST_RANKED)
    return _Summary(
        [_scores(title, neurons, heading, {shown.method: score_column(neurons)})],
        targets_words(shown.targets),
        shown.tokens,
        facts=value_facts(shown.targets),
        note=f"{visible(shown.provenance.model)} · method {visible(shown.method)}",
    )


@_summary.register
def _(shown: NeuronTokens) -> _Summary:
    cells = {"token": _cell("token", _token), "value": _cell("value")}
    tables = [_table(name.capitalize(), records(table), cells) for name, table in shown.tables().items()]
    return _Summary(tables, f"FFN neuron {shown.name}")


@_summary.register
def _(shown: HeadTokens) -> _Summary:
    cells = {
        "position": _cell("position", str),
        "token": _cell("token", _token),
        "attention": _cell("attention", percent),
        **{name: _cell(name, _tokens) for name in ("input", "key", "value")},
    }
    table = _table(f"Head {shown.layer}.{shown.head}, as tokens", records(shown.table), cells)
    return _Summary([table], tokens=shown.tokens)


@_summary.register
def _(shown: QueryGraph) -> _Summary:
    edges = shown.edges.head(_MOST_RANKED)
    title = "Edges" if len(edges) == len(shown.edges) else f"First {len(edges)} of {len(shown.edges)} edges"
    cells = {
        "from": _cell("source", str),
        "to": _cell("target", str),
        "score (nats)": _cell("score", signed),
    }
    return _Summary(
        [_table(title, records(edges), cells)],
        targets_words(shown.targets),
        shown.tokens,
        facts={"nodes": str(len(shown.nodes)), "explained": percent(shown.explained)},
        picture=_picture("The query graph.", shown.chart(), "links"),
    )


@_summary.register
def _(shown: QueryTables) -> _Summary:
    return _Summary(_query_tables(shown, ""), "Query neurons")


@_summary.register
def _(shown: QueryNeurons) -> _Summary:
    tables = [
        *_query_tables(shown.of_attention, " of attention value neurons"),
        *_query_tables(shown.of_ffn, " of FFN value neurons"),
    ]
    return _Summary(tables, "Query neurons")


def _query_tables(shown: QueryTables, whose: str) -> list[_Table]:
    score = {"query score (nats)": "score"}
    return [
        _scores(f"Heads{whose}", shown.heads.head(_ROWS), "layer.head", score),
        _scores(f"FFN neurons{whose}", shown.ffn_neurons.head(_ROWS), "layer.neuron", score),
    ]


def _scores(title: str, table: pd.DataFrame, heading: str, scores: dict[str, str]) -> _Table:
    """Return parts with columns of scores by heading."""
    numbers = {name: _cell(column) for name, column in scores.items()}
    return _table(title, records(table), {heading: row_name, **numbers})


def _parts(result: Attribution, name: str, title: str, heading: str, words: str = "") -> _Table:
    """Return the first rows of a list, with the tokens of the column `words`."""
    order = Effects.of(result).order
    rows = records(getattr(result, name).head(_ROWS))
    written = partial(signed, decimals=places(row[order] for row in rows))
    cells = {heading: row_name, f"{order} (nats)": _cell(order, written)}
    if words:
        cells[words] = _cell(words, _tokens if words == "promotes" else _token)
    return _table(title, rows, cells)


def _cell(name: str, written: Callable[[Any], Cell] = plain_number) -> Callable[[Row], Cell]:
    """Return the function that writes one of the values of a row."""
    return lambda row: written(row[name])


def _token(text: str) -> Markup:
    return Markup('<bdi class="token">{}</bdi>').format(visible(text))


def _tokens(texts: list[str]) -> Markup:
    return Markup(" ").join(map(_token, texts[:_MOST_TOKENS]))


def _picture(words: str, chart: Any, name: str) -> dict[str, str]:
    """Return a chart as an image, so that several pictures in one notebook share no ids."""
    return {"words": words, "address": data_address("image/svg+xml", picture(chart, name))}
