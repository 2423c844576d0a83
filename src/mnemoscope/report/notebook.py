"""Results in a notebook: a few small tables and a static picture, as one HTML fragment."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import singledispatch

from markupsafe import Markup
from rich.console import Console

from mnemoscope.report.charts import svg
from mnemoscope.report.charts.attribution import figures
from mnemoscope.report.html import data_address, templates
from mnemoscope.report.terminal.ablation import parts_words, render_ablation, with_spread
from mnemoscope.report.terminal.attribution import render_attribution
from mnemoscope.report.terminal.vocabulary import render_prediction
from mnemoscope.report.text import (
    Effects,
    divergence,
    percent,
    places,
    plain_number,
    reciprocal_rank,
    signed,
    targets_words,
    value_facts,
)
from mnemoscope.report.tokens import middle_left_out, visible
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import METRICS, records
from mnemoscope.results.prediction import Prediction

_ROWS = 5
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
        picture: alternative text and address of a picture; empty if there is none.
        note: the last line.
    """

    tokens: tuple[str, ...]
    target: str
    facts: dict[str, str]
    tables: list[_Table]
    picture: dict[str, str] = field(default_factory=dict)
    note: str = ""


def summary_html(shown: object) -> str:
    """Return a result as a fragment of HTML without scripts."""
    summary = _summary(shown)
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


def summary_text(shown: Attribution | Prediction | Ablation) -> str:
    """Return a result as the terminal shows it, without colours."""
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, color_system=None, highlight=False, force_jupyter=False)
    if isinstance(shown, Attribution):
        render_attribution(shown, console, _ROWS)
    elif isinstance(shown, Prediction):
        render_prediction(shown, console)
    elif isinstance(shown, Ablation):
        render_ablation(shown, console)
    else:
        raise TypeError(f"{type(shown).__name__} has no summary")
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


@singledispatch
def _summary(shown: object) -> _Summary:
    raise TypeError(f"{type(shown).__name__} has no summary")


@_summary.register
def _(shown: Attribution) -> _Summary:
    origin, figure = shown.provenance, figures(shown)[0]
    proven = "certified" if shown.certified else "not certified"
    # An image, so that several pictures in one notebook share no ids.
    picture = svg(figure.chart(shown).to_dict(), figure.name).encode()
    return _Summary(
        tokens=shown.tokens,
        target=targets_words(shown.targets),
        facts=value_facts(shown.targets),
        tables=[
            _parts(shown, "heads", "Heads", ("layer", "head"), ""),
            _parts(shown, "ffn_neurons", "FFN neurons", ("layer", "neuron"), "promotes"),
            _parts(shown, "attention_neurons", "Attention neurons", ("layer", "head", "dim"), "token"),
        ],
        picture={
            "words": f"{figure.title}. {figure.words}",
            "address": data_address("image/svg+xml", picture),
        },
        note=f"{visible(origin.model)} · {visible(origin.architecture)} · {origin.dtype} · lists {proven}",
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
        for row in records(shown.table, tuple(shown.table.columns))
    ]
    table = _Table("Likeliest next tokens", ("rank", "token", "probability", "log p"), rows)
    return _Summary(tokens=shown.tokens, target="", facts={}, tables=[table])


@_summary.register
def _(shown: Ablation) -> _Summary:
    written = dict(zip((*METRICS, "kl"), (reciprocal_rank, percent, signed, divergence), strict=True))
    mean, spread = shown.controls_mean, shown.controls_standard_deviation
    several = len(shown.controls) > 1
    rows: list[tuple[str | Markup, ...]] = [
        ("before", *(written[name](shown.before[name]) for name in METRICS), ""),
        ("after", *(written[name](shown.after[name]) for name in METRICS), divergence(shown.plain_text.kl)),
        (
            f"{len(shown.controls)} random",
            *(
                with_spread(mean[name], spread[name] if several else None, write)
                for name, write in written.items()
            ),
        ),
    ]
    headings = ("", "1 / rank", "probability", "log p", "KL on plain text (nats per token)")
    return _Summary(
        tokens=shown.tokens,
        target=visible(shown.target[1]),
        facts={},
        tables=[_Table(f"{parts_words(shown)}, {shown.how}", headings, rows)],
        note="random: parts of the same kind and layers" + (", mean ± standard deviation" if several else ""),
    )


def _parts(result: Attribution, name: str, title: str, index: tuple[str, ...], words: str) -> _Table:
    """Return the first rows of a list, with the tokens of the column `words`."""
    effects = Effects.of(result)
    rows = records(getattr(result, name).head(_ROWS), tuple(getattr(result, name)))
    decimals = places(row[effects.order] for row in rows)
    cells: list[tuple[str | Markup, ...]] = []
    for row in rows:
        named = (".".join(str(row[part]) for part in index), signed(row[effects.order], decimals))
        tokens = row[words][:_MOST_TOKENS] if words == "promotes" else [row[words]] if words else []
        cells.append((*named, Markup(" ").join(map(_token, tokens))) if words else named)
    headings = (".".join(index), f"{effects.order} (nats)", *([words] if words else []))
    return _Table(title, headings, cells)


def _token(text: str) -> Markup:
    return Markup('<bdi class="token">{}</bdi>').format(visible(text))
