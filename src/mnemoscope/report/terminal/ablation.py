"""Ablations: the target before and after, random controls, and coefficients of value neurons."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from rich.console import Console, RenderableType
from rich.text import Text

from mnemoscope.report.terminal import Column, Row, prompt_text, table_of, title_text, token_text
from mnemoscope.report.text import divergence, percent, plain_number, signed
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.columns import AGREEMENT_COLUMNS, COEFFICIENT_COLUMNS, records
from mnemoscope.results.query import QueryAblation, relative_changes

_NAMED_PARTS = 20
_WITH_LOG_P = 80  # cells from which the table of facts has room for it
_KINDS = {
    "FFNNeuron": ("FFN neuron", "FFN neurons"),
    "AttentionNeuron": ("attention neuron", "attention neurons"),
    "Head": ("head", "heads"),
    "Layer": ("layer", "layers"),
}


def render_ablation(ablation: Ablation, console: Console) -> None:
    """Show a target before and after an intervention, after random ones, and what else it does."""
    target = token_text(ablation.target[1], "bold")
    names = [part.name for part in ablation.parts]
    console.print(prompt_text(ablation.tokens, console.width) + Text(" ▸ ", "dim") + target)
    console.print()
    console.print(title_text(parts_words(ablation), _how(ablation)))
    console.print(Text(" ".join(names[:_NAMED_PARTS]) + (" …" if len(names) > _NAMED_PARTS else ""), "dim"))
    console.print()
    console.print(_target_table(ablation, target))
    console.print()
    console.print(_plain_text_table(ablation))
    if not ablation.facts.empty:
        console.print()
        console.print(_facts_table(ablation.facts, console.width))


def _how(ablation: Ablation) -> str:
    """Describe the intervention, and the controls where not all are of the same layers."""
    if ablation.controls_from == "the same layers":
        return ablation.how
    return f"{ablation.how}; random ones from {ablation.controls_from}"


def parts_words(ablation: Ablation) -> str:
    """How many parts of which kinds: `1 head`, `3 parts: FFN neurons, heads`."""
    n_parts = len(ablation.parts)
    found = list(dict.fromkeys(_KINDS[type(part).__name__] for part in ablation.parts))
    if len(found) > 1:
        return f"{n_parts} parts: {', '.join(several for _, several in found)}"
    one, several = found[0]
    return f"{n_parts} {one if n_parts == 1 else several}"


def _target_table(ablation: Ablation, target: Text) -> RenderableType:
    mean, spread = ablation.controls_mean, ablation.controls_standard_deviation
    exact = dict.fromkeys(mean, 0.0)
    rows: list[Row] = [
        {"what": "before", "value": ablation.before, "spread": exact},
        {"what": "after", "value": ablation.after, "spread": exact},
        {"what": _controls(ablation), "value": mean, "spread": spread},
    ]
    columns = [
        Column("", lambda row: Text(row["what"], "bold" if row["what"] == "after" else "")),
        Column("1 / rank", lambda row: _with_spread(row, "reciprocal_rank", _rank), right=True),
        Column("probability", lambda row: _with_spread(row, "probability", percent), right=True),
        Column("log p", lambda row: _with_spread(row, "log_probability", signed), right=True),
    ]
    return table_of(title_text("What it does to", token=target, end=_spread(ablation)), rows, columns)


def _plain_text_table(ablation: Ablation) -> RenderableType:
    """How far the predictions of unrelated text move, and how well the model still predicts it."""
    text = ablation.plain_text
    mean, spread = ablation.controls_mean, ablation.controls_standard_deviation
    rows: list[Row] = [
        {"what": "before", "perplexity": text.perplexity_before},
        {
            "what": "after",
            "value": text._asdict(),
            "perplexity": text.perplexity_after,
            "spread": {"kl": 0.0},
        },
        {"what": _controls(ablation), "value": mean, "spread": spread},
    ]
    columns = [
        Column("", lambda row: Text(row["what"], "bold" if row["what"] == "after" else "")),
        Column(
            "KL, nats per token",
            lambda row: _with_spread(row, "kl", divergence) if "value" in row else "",
            right=True,
        ),
        Column(
            "perplexity",
            lambda row: _perplexity(row["perplexity"]) if "perplexity" in row else "",
            right=True,
        ),
    ]
    note = "unrelated English prose, the parts changed at all positions"
    return table_of(title_text("What it does to plain text", note), rows, columns)


def _controls(ablation: Ablation) -> str:
    return f"{len(ablation.controls)} random"


def _spread(ablation: Ablation) -> str:
    """What the numbers of the controls are, if there are several."""
    return "  random ones: mean ± standard deviation" if len(ablation.controls) > 1 else ""


def _with_spread(row: Row, metric: str, written: Callable[[float], str]) -> str:
    value, spread = written(row["value"][metric]), row["spread"][metric]
    return f"{value} ± {written(spread).lstrip('+')}" if spread else value


def _rank(reciprocal: float) -> str:
    return f"{reciprocal:.3f}"


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else plain_number(value)


def _facts_table(facts: pd.DataFrame, width: int) -> RenderableType:
    """Each group of facts before and after, side by side."""
    by_group: dict[str, Row] = {}
    for row in records(facts, tuple(facts.columns)):
        group = by_group.setdefault(row["group"], {"group": row["group"], "n_facts": row["n_facts"]})
        group[row["when"]] = row
    columns = [
        Column("", lambda row: row["group"]),
        Column("facts", lambda row: f"{row['n_facts']:,}", right=True),
        Column("1 / rank", lambda row: _change(row, "reciprocal_rank", _rank), right=True),
        Column("probability", lambda row: _change(row, "probability", percent), right=True),
    ]
    if width >= _WITH_LOG_P:
        columns.append(Column("log p", lambda row: _change(row, "log_probability", signed), right=True))
    title = title_text("What it does to other facts", "means, before → after")
    return table_of(title, list(by_group.values()), columns)


def _change(row: Row, metric: str, written: Callable[[float], str]) -> str:
    return f"{written(row['before'][metric])} → {written(row['after'][metric])}"


_ROWS = 10
_KIND_TITLES = {"attention": "attention", "ffn": "FFN", "both": "in all"}


def render_query_ablation(found: QueryAblation, console: Console) -> None:
    """Show a target without query neurons, and the coefficients of its value neurons."""
    render_ablation(found.ablation, console)
    console.print()
    console.print(_coefficients_table(found.coefficients, found.ablation.tokens))
    console.print()
    console.print(_agreement_table(found.agreement))


def _coefficients_table(coefficients: pd.DataFrame, tokens: tuple[str, ...]) -> RenderableType:
    """The value neurons whose coefficients changed most, relative to their size."""
    change = relative_changes(coefficients)["measured"].abs()
    most = coefficients.loc[change.sort_values(ascending=False, kind="stable").index[:_ROWS]]
    columns = [
        Column("neuron", _name),
        Column("kind", lambda row: _KIND_TITLES[row["kind"]]),
        Column("before", lambda row: _number(row["before"]), right=True),
        Column("predicted", lambda row: _number(row["predicted"]), right=True),
        Column("after", lambda row: Text(_number(row["after"]), "bold"), right=True),
        Column("random", _random, right=True),
        Column("position", lambda row: _position(row, tokens), stretches=True),
    ]
    shown = f"{len(most)} of {len(coefficients)} value neurons, those whose changed most for their size"
    return table_of(title_text("Coefficients", shown), records(most, COEFFICIENT_COLUMNS), columns)


def _name(row: Row) -> str:
    names = ("layer", "neuron") if row["kind"] == "ffn" else ("layer", "head", "dim")
    return ".".join(str(row[name]) for name in names)


def _number(coefficient: float) -> str:
    return signed(coefficient)


def _random(row: Row) -> str:
    spread = row["control_standard_deviation"]
    mean = _number(row["control_mean"])
    return f"{mean} ± {_number(spread).lstrip('+')}" if spread else mean


def _position(row: Row, tokens: tuple[str, ...]) -> Text:
    return Text.assemble((f"{row['position']} ", "dim"), token_text(tokens[row["position"]]))


def _agreement_table(agreement: pd.DataFrame) -> RenderableType:
    """The mean change of the coefficients, and how well it was predicted."""
    columns = [
        Column("value neurons", lambda row: f"{row['n']:,} {_KIND_TITLES[row['kind']]}"),
        *(
            Column(title, lambda row, name=name: _relative_change(row[name]), right=True)
            for title, name in (("predicted", "predicted"), ("measured", "measured"), ("random", "controls"))
        ),
        *(
            Column(name.capitalize(), lambda row, name=name: signed(row[name], 2), right=True)
            for name in ("pearson", "spearman")
        ),
    ]
    note = "means; correlation of predicted and measured"
    title = title_text("Change of the coefficients", note)
    return table_of(title, records(agreement, AGREEMENT_COLUMNS), columns)


def _relative_change(relative: float) -> str:
    """A relative change as `−45.0 %`."""
    return f"{signed(100 * relative, 1)} %"
