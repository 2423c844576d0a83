"""Results in a notebook: a few small tables and a static picture, as one HTML fragment."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, singledispatch
from typing import Any

import pandas as pd
from markupsafe import Markup
from rich.console import Console

from mnemoscope.report.charts import svg
from mnemoscope.report.charts.attribution import figures
from mnemoscope.report.findings import Sentence, ablation_finding, findings
from mnemoscope.report.pages import data_address, templates
from mnemoscope.report.readable import readable
from mnemoscope.report.terminal.ablation import render_ablation, with_spread
from mnemoscope.report.terminal.attribution import render_attribution
from mnemoscope.report.terminal.comparison import render_comparison
from mnemoscope.report.terminal.examples import render_examples
from mnemoscope.report.terminal.query import query_section, render_links
from mnemoscope.report.terminal.vocabulary import render_head, render_neuron, render_prediction
from mnemoscope.report.text import (
    Effects,
    controls_rank,
    divergence,
    parts_words,
    percent,
    places,
    plain_number,
    rank_text,
    signed,
    targets_words,
    value_facts,
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


@dataclass(frozen=True)
class _Table:
    """A small table; cells are texts or, as markup, tokens."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str | Markup, ...]]


@dataclass(frozen=True)
class _Summary:
    """The parts of a result that a notebook shows.

    Attributes:
        tokens: tokens of the prompt.
        target: the target in words.
        facts: numbers by name.
        tables: the tables.
        findings: sentences on the result.
        picture: alternative text and address of a picture; empty if there is none.
        note: the last line.
    """

    tokens: tuple[str, ...]
    target: str
    facts: dict[str, str]
    tables: list[_Table]
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
    # An image, so that several pictures in one notebook share no ids.
    picture = svg(figure.chart(shown).to_dict(), figure.name).encode()
    return _Summary(
        tokens=shown.tokens,
        target=targets_words(shown.targets),
        facts=value_facts(shown.targets),
        findings=findings(shown),
        tables=[
            _parts(shown, "heads", "Heads", "layer.head", ""),
            _parts(shown, "ffn_neurons", "FFN neurons", "layer.neuron", "promotes"),
            _parts(shown, "attention_neurons", "Attention neurons", "layer.head.dim", "token"),
        ],
        picture={
            "words": f"{figure.title}. {figure.words}",
            "address": data_address("image/svg+xml", picture),
        },
        note=f"{visible(origin.model)} · {visible(origin.architecture)} · {origin.dtype} · lists {certainty}",
    )


@_summary.register
def _(shown: PromptComparison) -> _Summary:
    def table(name: str, title: str, heading: str) -> _Table:
        rows: list[tuple[str | Markup, ...]] = [
            (row_name(row), *(plain_number(row[side]) for side in sides))
            for row in records(getattr(shown, name).head(_ROWS))
        ]
        return _Table(title, (heading, "A", "B", "Diff (nats)"), rows)

    sides = ("a", "b", "diff")
    words = (f"{targets_words(side.targets)} after {visible(side.prompt)}" for side in (shown.a, shown.b))
    return _Summary(
        tokens=(),
        target=" and ".join(f"{name}: {each}" for name, each in zip("AB", words, strict=True)),
        facts={},
        tables=[
            table("heads", "Heads", "layer.head"),
            table("ffn_neurons", "FFN neurons", "layer.neuron"),
            table("attention_neurons_summed", "Attention neurons", "layer.head.dim"),
        ],
        note=f"{visible(shown.provenance.model)} · direct effects, Diff is B − A",
    )


@_summary.register
def _(shown: NeuronExamples) -> _Summary:
    best = shown.windows[shown.windows["group"] == "highest"].head(_MOST_RANKED)
    rows: list[tuple[str | Markup, ...]] = [
        (
            row_name(row),
            plain_number(row["activation"]),
            Markup("").join(
                Markup("<b>{}</b>").format(_token(token)) if place == row["position"] else _token(token)
                for place, token in enumerate(row["tokens"])
            ),
        )
        for row in records(best)
    ]
    corpus = shown.corpus
    return _Summary(
        tokens=(),
        target="Where neurons fire",
        facts={"corpus": visible(corpus.name), "tokens": f"{corpus.n_tokens:,}"},
        tables=[_Table("Highest activations", ("neuron", "activation", "window"), rows)],
        note=visible(shown.provenance.model),
    )


@_summary.register
def _(shown: Prediction) -> _Summary:
    rows: list[tuple[str | Markup, ...]] = [
        (
            str(row["rank"]),
            _token(row["token"]),
            percent(row["probability"]),
            plain_number(row["log_probability"]),
        )
        for row in records(shown.table)
    ]
    table = _Table("Likeliest next tokens", ("rank", "token", "probability", "log p"), rows)
    return _Summary(tokens=shown.tokens, target="", facts={}, tables=[table])


@_summary.register
def _(shown: Ablation) -> _Summary:
    written = {"probability": percent, "log_probability": signed, "kl": divergence}

    def metrics(numbers: dict[str, float]) -> list[str]:
        return [percent(numbers["probability"]), signed(numbers["log_probability"])]

    mean, spread = shown.controls_mean, shown.controls_standard_deviation
    several = len(shown.controls) > 1
    rows: list[tuple[str | Markup, ...]] = [
        ("before", rank_text(shown.before), *metrics(shown.before), ""),
        ("after", rank_text(shown.after), *metrics(shown.after), divergence(shown.plain_text.kl)),
        (
            f"{len(shown.controls)} random",
            controls_rank(shown),
            *(
                with_spread(mean[name], spread[name] if several else None, write)
                for name, write in written.items()
            ),
        ),
    ]
    headings = ("", "rank", "probability", "log p", "KL on plain text (nats per token)")
    return _Summary(
        tokens=shown.tokens,
        target=visible(shown.target[1]),
        facts={},
        findings=[ablation_finding(shown)],
        tables=[_Table(f"{parts_words(shown)}, {shown.how}", headings, rows)],
        note="random: parts of the same kind and layers" + (", mean ± standard deviation" if several else ""),
    )


@_summary.register
def _(shown: Ranking) -> _Summary:
    heading = "layer.neuron" if shown.kind == "ffn" else "layer.head.dim"
    kind = "FFN neurons" if shown.kind == "ffn" else "Attention neurons"
    return _Summary(
        tokens=shown.tokens,
        target=targets_words(shown.targets),
        facts=value_facts(shown.targets),
        tables=[_scores(kind, shown.neurons.head(_MOST_RANKED), heading, shown.method)],
        note=f"{visible(shown.provenance.model)} · method {visible(shown.method)}",
    )


@_summary.register
def _(shown: NeuronTokens) -> _Summary:
    tables = [
        _Table(title, ("token", "value"), [(_token(token), plain_number(value)) for token, value in tokens])
        for title, tokens in (("Promotes", shown.promotes), ("Demotes", shown.demotes))
    ]
    return _Summary(tokens=(), target=f"FFN neuron {shown.name}", facts={}, tables=tables)


@_summary.register
def _(shown: HeadTokens) -> _Summary:
    lists = ("input", "key", "value")
    rows: list[tuple[str | Markup, ...]] = [
        (
            str(row["position"]),
            _token(row["token"]),
            percent(row["attention"]),
            *(Markup(" ").join(map(_token, row[name][:_MOST_TOKENS])) for name in lists),
        )
        for row in records(shown.table)
    ]
    headings = ("position", "token", "attention", *lists)
    table = _Table(f"Head {shown.layer}.{shown.head}, as tokens", headings, rows)
    return _Summary(tokens=shown.tokens, target="", facts={}, tables=[table])


@_summary.register
def _(shown: QueryGraph) -> _Summary:
    edges = shown.edges.head(_MOST_RANKED)
    rows: list[tuple[str | Markup, ...]] = [
        (row["source"], row["target"], signed(row["score"]))
        for row in records(edges, ("source", "target", "score"))
    ]
    title = "Edges" if len(edges) == len(shown.edges) else f"First {len(edges)} of {len(shown.edges)} edges"
    picture = svg(shown.chart().to_dict(), "links").encode()
    return _Summary(
        tokens=shown.tokens,
        target=targets_words(shown.targets),
        facts={"nodes": str(len(shown.nodes)), "explained": percent(shown.explained)},
        tables=[_Table(title, ("from", "to", "score (nats)"), rows)],
        picture={"words": "The query graph.", "address": data_address("image/svg+xml", picture)},
    )


@_summary.register
def _(shown: QueryTables) -> _Summary:
    return _Summary(tokens=(), target="Query neurons", facts={}, tables=_query_tables(shown, ""))


@_summary.register
def _(shown: QueryNeurons) -> _Summary:
    tables = [
        *_query_tables(shown.of_attention, " of attention value neurons"),
        *_query_tables(shown.of_ffn, " of FFN value neurons"),
    ]
    return _Summary(tokens=(), target="Query neurons", facts={}, tables=tables)


def _query_tables(shown: QueryTables, whose: str) -> list[_Table]:
    return [
        _scores(f"Heads{whose}", shown.heads.head(_ROWS), "layer.head", "query score (nats)"),
        _scores(f"FFN neurons{whose}", shown.ffn_neurons.head(_ROWS), "layer.neuron", "query score (nats)"),
    ]


def _scores(title: str, table: pd.DataFrame, heading: str, of_score: str) -> _Table:
    """Return parts with the score that the table is sorted by."""
    number = score_column(table)
    rows: list[tuple[str | Markup, ...]] = [
        (row_name(row), plain_number(row[number])) for row in records(table)
    ]
    return _Table(title, (heading, of_score), rows)


def _parts(result: Attribution, name: str, title: str, heading: str, words: str) -> _Table:
    """Return the first rows of a list, with the tokens of the column `words`."""
    effects = Effects.of(result)
    rows = records(getattr(result, name).head(_ROWS))
    decimals = places(row[effects.order] for row in rows)
    cells: list[tuple[str | Markup, ...]] = []
    for row in rows:
        named = (row_name(row), signed(row[effects.order], decimals))
        tokens = row[words][:_MOST_TOKENS] if words == "promotes" else [row[words]] if words else []
        cells.append((*named, Markup(" ").join(map(_token, tokens))) if words else named)
    headings = (heading, f"{effects.order} (nats)", *([words] if words else []))
    return _Table(title, headings, cells)


def _token(text: str) -> Markup:
    return Markup('<bdi class="token">{}</bdi>').format(visible(text))
