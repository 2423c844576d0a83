"""Ablations in a terminal: the target, random controls, and coefficients of value neurons."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
from rich.console import Console, RenderableType
from rich.text import Text

from mnemoscope.report.findings import ablation_finding, plain
from mnemoscope.report.readable import readable
from mnemoscope.report.terminal import (
    Column,
    Row,
    number_column,
    print_blocks,
    question_text,
    table_of,
    title_text,
    token_text,
)
from mnemoscope.report.text import (
    ablation_rows,
    divergence,
    parts_words,
    percent,
    plain_number,
    signed,
    signed_percent,
    with_spread,
)
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.columns import AGREEMENT_COLUMNS, COEFFICIENT_COLUMNS, records
from mnemoscope.results.parts import row_name
from mnemoscope.results.query import QueryAblation, relative_changes

_NAMED_PARTS = 20
_WITH_LOG_P = 80  # cells from which the table of facts shows log p
# Heading and writer of each metric of the target beside its rank.
Metrics = dict[str, tuple[str, Callable[[float], str]]]
_METRICS: Metrics = {"probability": ("probability", percent), "log_probability": ("log p", signed)}
_METRICS_OF_CONTRASTS: Metrics = {**_METRICS, "log_odds": ("log-odds", signed)}
_WHEN = Column("", lambda row: Text(row["when"], "bold" if row["when"] == "after" else ""))


def render_ablation(ablation: Ablation, console: Console) -> None:
    """Print a target before and after an intervention and after random ones, and the side effects."""
    print_blocks(console, *_blocks(readable(ablation), console.width))


def render_query_ablation(found: QueryAblation, console: Console) -> None:
    """Print the ablation of query neurons, and the coefficients of their value neurons."""
    ablation = readable(found.ablation)
    print_blocks(
        console,
        *_blocks(ablation, console.width),
        _coefficients_table(found.coefficients, ablation.tokens),
        _agreement_table(found.agreement),
    )


def _blocks(ablation: Ablation, width: int) -> list[RenderableType]:
    target = token_text(ablation.target[1], "bold")
    if ablation.against:
        others = [token_text(text, "bold") for _, text in ablation.against]
        target = Text.assemble(target, " over ", Text(" or ").join(others))
    how = ablation.how
    if ablation.controls_from != "the same layers":
        how = f"{how}; random ones from {ablation.controls_from}"
    names = [part.name for part in ablation.parts]
    named = " ".join(names[:_NAMED_PARTS]) + (" …" if len(names) > _NAMED_PARTS else "")
    parts = Text("\n").join([title_text(parts_words(ablation), how), Text(named, "dim")])
    tables = [_target_table(ablation, target), _plain_text_table(ablation)]
    if not ablation.facts.empty:
        tables.append(_facts_table(ablation.facts, width))
    finding = Text("• " + plain(ablation_finding(ablation)))
    return [question_text(ablation.tokens, width, target), finding, parts, *tables]


def _metric(name: str, title: str, written: Callable[[float], str]) -> Column:
    """Return the column of a metric, with its standard deviation over random controls."""

    def cell(row: Row) -> str:
        return with_spread(row[name], row["spread"].get(name) or None, written) if name in row else ""

    return Column(title, cell, right=True)


def _target_table(ablation: Ablation, target: Text) -> RenderableType:
    metrics = _METRICS_OF_CONTRASTS if ablation.against else _METRICS
    columns = [
        _WHEN,
        number_column("rank", "rank"),
        *(_metric(name, *metric) for name, metric in metrics.items()),
    ]
    end = "  random: mean ± standard deviation, best to worst rank" if len(ablation.controls) > 1 else ""
    return table_of(title_text("Effect on", token=target, end=end), ablation_rows(ablation), columns)


def _plain_text_table(ablation: Ablation) -> RenderableType:
    """Return the KL divergence on unrelated text in nats per token, and the perplexity of that text."""
    text = ablation.plain_text
    perplexities = {
        "before": _perplexity(text.perplexity_before),
        "after": _perplexity(text.perplexity_after),
    }
    columns = [
        _WHEN,
        _metric("kl", "KL, nats per token", divergence),
        number_column("perplexity", "when", lambda when: perplexities.get(when, "")),
    ]
    note = "unrelated English prose, the parts changed at all positions"
    return table_of(title_text("Effect on plain text", note), ablation_rows(ablation), columns)


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else plain_number(value)


def _facts_table(facts: pd.DataFrame, width: int) -> RenderableType:
    """Return each group of facts with its means before and after."""
    metrics = {"reciprocal_rank": ("MRR", "{:.3f}".format), **_METRICS}
    if width < _WITH_LOG_P:
        del metrics["log_probability"]
    rows: list[Row] = []
    for group, of_group in facts.groupby("group", sort=False):
        means = {row["when"]: row for row in records(of_group)}
        before, after = means["before"], means["after"]
        changes = {
            name: f"{written(before[name])} → {written(after[name])}"
            for name, (_, written) in metrics.items()
        }
        rows.append({"group": group, "n_facts": f"{before['n_facts']:,}", **changes})
    columns = [
        Column("", lambda row: row["group"]),
        number_column("facts", "n_facts"),
        *(number_column(title, name) for name, (title, _) in metrics.items()),
    ]
    return table_of(title_text("Effect on other facts", "means, before → after"), rows, columns)


_ROWS = 10
_KIND_TITLES = {"attention": "attention", "ffn": "FFN", "both": "in all"}


def _coefficients_table(coefficients: pd.DataFrame, tokens: tuple[str, ...]) -> RenderableType:
    """Return the value neurons whose coefficients changed most, relative to their size."""
    change = relative_changes(coefficients)["measured"].abs()
    most = coefficients.loc[change.sort_values(ascending=False, kind="stable").index[:_ROWS]]
    columns = [
        Column("neuron", row_name, whole=True),
        Column("kind", lambda row: _KIND_TITLES[row["kind"]]),
        number_column("before", "before", signed),
        number_column("predicted", "predicted", signed),
        number_column("after", "after", lambda number: Text(signed(number), "bold")),
        Column(
            "random",
            lambda row: with_spread(row["control_mean"], row["control_standard_deviation"] or None, signed),
            right=True,
        ),
        Column(
            "position",
            lambda row: Text.assemble((f"{row['position']} ", "dim"), token_text(tokens[row["position"]])),
            stretches=True,
        ),
    ]
    shown = f"{len(most)} of {len(coefficients)} value neurons, those whose changed most for their size"
    return table_of(title_text("Coefficients", shown), records(most, COEFFICIENT_COLUMNS), columns)


def _agreement_table(agreement: pd.DataFrame) -> RenderableType:
    """Return the mean relative changes of the coefficients, and the correlations with the prediction."""
    columns = [
        Column("value neurons", lambda row: f"{row['n']:,} {_KIND_TITLES[row['kind']]}"),
        number_column("predicted", "predicted", signed_percent),
        number_column("measured", "measured", signed_percent),
        number_column("random", "controls", signed_percent),
        number_column("Pearson", "pearson", partial(signed, decimals=2)),
        number_column("Spearman", "spearman", partial(signed, decimals=2)),
    ]
    title = title_text("Change of the coefficients", "means; correlation of predicted and measured")
    return table_of(title, records(agreement, AGREEMENT_COLUMNS), columns)
