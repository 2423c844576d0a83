"""Attributions in a terminal, of one token and of a target of several tokens."""

from __future__ import annotations

from functools import partial

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mnemoscope.report.findings import Sentence, Token, findings
from mnemoscope.report.readable import readable
from mnemoscope.report.terminal import (
    Column,
    Row,
    abreast,
    activation_column,
    bar_column,
    expert_column,
    facts_text,
    number_column,
    origin_text,
    position_column,
    print_blocks,
    question_text,
    table_of,
    targets_text,
    title_text,
    token_text,
    tokens_column,
)
from mnemoscope.report.terminal.depth import LEGEND, depth_chart
from mnemoscope.report.terminal.query import query_section
from mnemoscope.report.text import (
    NOTHING_READ,
    Effects,
    certificate,
    continuation_facts,
    effect_text,
    found_words,
    list_certificates,
    percent,
    places,
    prediction_names,
    queries_are_missing,
    signed,
    sum_of_layers,
    sum_words,
    target_facts,
    value_facts,
)
from mnemoscope.report.theme import Depth
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import records
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.parts import row_name
from mnemoscope.results.targets import Target

_FULL = "; --full prints layers, attention neurons, every row and what activates them"
_MOST_HEADS = 20  # rows of heads, which are all in the table
_FEW = 5  # rows unless all are asked for
_BOTH_EFFECTS = 90  # cells from which direct and total effects stand side by side
_TWO_ABREAST = 124  # cells from which two tables of attention parts stand side by side
_TWO_FFN_ABREAST = 150
_SECOND_EFFECT = 9  # cells of the second effect in each of two such tables
_WITH_DEMOTES = 80  # cells from which a table shows both lists of tokens


def _short_certificate(result: Attribution | ContinuationAttribution) -> str:
    return certificate(result).removesuffix(": exact") + _FULL


def render_attribution(result: Attribution, console: Console, *, full: bool = False) -> None:
    """Print the findings of a result and the first five neurons and heads of each direction.

    Args:
        result: the result.
        console: its width decides which tables stand side by side.
        full: also print the model by depth, every row of every table, and what activates the value neurons.
    """
    shown = readable(result)
    target, effects, width = targets_text(shown.targets), Effects.of(shown), console.width
    head = [
        origin_text(shown.provenance),
        Group(question_text(shown.tokens, width, target), _prediction_facts(shown)),
        findings_text(findings(shown)),
    ]
    if not full:
        tables = _part_tables(shown, effects, width, _FEW, ("ffn_neurons", "heads_by_position"))
        print_blocks(console, *head, *tables, Text(_short_certificate(result), "dim"))
        return
    meanings = "; ".join(f"{name}: {text}" for name, text in effects.meanings().items())
    closing = [
        f"{meanings}; activation: the neuron's coefficient",
        *list_certificates(shown),
        sum_of_layers(shown),
    ]
    if queries_are_missing(shown):
        closing.insert(0, NOTHING_READ)
    queries = shown.query_neurons
    print_blocks(
        console,
        *head,
        Group(
            title_text("Layers and heads", effects.in_nats, target),
            depth_chart(Depth.of(shown, effects.order), width),
        ),
        LEGEND,
        _strongest_heads(shown, effects, width),
        *_part_tables(shown, effects, width, None, tuple(_PARTS)),
        *([] if queries is None else [query_section(queries, width, None)]),
        Text("\n".join(closing), "dim"),
    )


def findings_text(sentences: list[Sentence]) -> Text:
    """Return findings as lines with tokens in bold."""
    lines = [
        Text("• ")
        + Text.assemble(
            *(token_text(part.text, "bold") if isinstance(part, Token) else part for part in sentence)
        )
        for sentence in sentences
    ]
    return Text("\n").join(lines)


def _prediction_facts(result: Attribution) -> Text:
    """Return the value that scores are changes of; of several targets also each target's numbers."""
    targets = result.targets
    several = () if targets.one else (*targets.answers, *targets.against)
    lines = (token_text(each.text, "bold") + "   " + facts_text(target_facts(each)) for each in several)
    return Text("\n").join([facts_text(value_facts(targets)), *lines])


def _strongest_heads(result: Attribution, effects: Effects, width: int) -> RenderableType:
    """Name the heads at both ends; with both effects below each where the width allows."""
    ends = {"raise": result.heads, "lower": result.heads[::-1]}
    if effects.totals and width >= _BOTH_EFFECTS:
        return _heads_with_both(ends, effects, width)
    decimals = places(result.heads[effects.order])
    lines = []
    for verb, heads in ends.items():
        line = Text.assemble((f"heads that {verb} most", "dim"))
        for row in records(heads.head(max(1, (width - 24) // 15)), ("layer", "head", effects.order)):
            number = signed(row[effects.order], decimals)
            line += Text.assemble(f"  {row_name(row)} ", (number, "dim"))
        lines.append(line)
    return Text("\n").join(lines)


def _heads_with_both(ends: dict[str, pd.DataFrame], effects: Effects, width: int) -> Table:
    decimals = {name: places(ends["raise"][name]) for name in effects.columns()}
    n_heads = (width - len("heads that raise most")) // 9
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", style="dim")
    for verb, heads in ends.items():
        rows = records(heads.head(n_heads), ("layer", "head", *decimals))
        grid.add_row(f"heads that {verb} most", *map(row_name, rows))
        for name, n_places in decimals.items():
            numbers = (effect_text(name, row[name], n_places) for row in rows)
            grid.add_row(name, *(Text(number, "dim") for number in numbers))
    return grid


# Title of each sort of part, and the heading of its names.
_PARTS = {
    "ffn_neurons": ("FFN neurons", "layer.neuron"),
    "attention_neurons": ("Attention neurons", "layer.head.dim"),
    "heads_by_position": ("Heads at single tokens", "layer.head"),
}


def _part_tables(
    result: Attribution, effects: Effects, width: int, n_rows: int | None, names: tuple[str, ...]
) -> list[RenderableType]:
    """Return the tables of each sort of part: what raises the target, and what lowers it; None: all rows."""
    target = targets_text(result.targets)
    drawn = []
    for name in names:
        what, heading = _PARTS[name]
        from_width = _TWO_FFN_ABREAST if name == "ffn_neurons" else _TWO_ABREAST
        from_width += 2 * _SECOND_EFFECT if effects.totals else 0
        room = width // 2 if width >= from_width else width
        pair = []
        for verb, table in (
            ("raise", getattr(result, name)),
            ("lower", getattr(result, f"suppressing_{name}")),
        ):
            rows = records(table.iloc[:n_rows])
            columns = [
                Column(heading, row_name, whole=True),
                *expert_column(table),
                *_effect_columns(effects, rows, both=width >= _BOTH_EFFECTS),
                *_columns_behind(name, room),
            ]
            title = title_text(what, f"that {verb} ", target, f", by {effects.name} effect")
            pair.append(table_of(title, rows, columns))
        drawn.append(abreast(pair, width, from_width))
    return drawn


def _columns_behind(name: str, width: int) -> list[Column]:
    """Return the columns behind the effects of a sort of part: activation or attention, and tokens."""
    if name == "heads_by_position":
        return [number_column("attention", "attention", percent), position_column()]
    if name == "attention_neurons":
        return [activation_column(), position_column()]
    with_demotes = [tokens_column("demotes")] if width >= _WITH_DEMOTES else []
    return [activation_column(), tokens_column("promotes"), *with_demotes]


def _effect_columns(effects: Effects, rows: list[Row], *, both: bool) -> list[Column]:
    """Return a column for each effect, or for one, with bars of the one that orders the rows."""
    columns = []
    for name in effects.columns(both):
        columns.append(
            number_column(name, name, partial(effect_text, name, decimals=places(row[name] for row in rows)))
        )
        if name == effects.order:
            columns.append(bar_column(name, rows))
    return columns


_BEFORE_TOKENS = 36  # cells of a part's name, its sum and a bar, at most
_WORDS = 30  # cells for the tokens that a neuron promotes
_OF_A_TOKEN = 10  # cells of a token's scores, at most
_LONGEST_NAME = 12


def render_continuation(result: ContinuationAttribution, console: Console, *, full: bool = False) -> None:
    """Print a result: the target's tokens, and the first five parts of each direction by their sums.

    With `full` also the model by depth, and every row.
    """
    result = readable(result)
    answers = (result.targets, result.against_targets)
    target = Text(" over ").join(
        Text(" ").join(token_text(token.text, "bold") for token in answer) for answer in answers if answer
    )
    width = console.width
    print_blocks(
        console,
        origin_text(result.provenance),
        Group(
            question_text(result.prompt_tokens, width, target),
            facts_text(continuation_facts(result)),
        ),
        _answer_tokens("Tokens of the target", result.targets),
        *([_answer_tokens("Tokens of the contrast", result.against_targets)] if result.against else []),
        *(_depth_of_sums(result, target, width) if full else []),
        *_tables_of_sums(result, target, width, None if full else _FEW),
        Text("\n".join(_closing_of_sums(result) if full else [_short_certificate(result)]), "dim"),
    )


def _depth_of_sums(result: ContinuationAttribution, target: Text, width: int) -> list[RenderableType]:
    title = title_text(
        "Layers and heads", f"nats they add to {_value_name(result)} of all tokens of ", target
    )
    return [Group(title, depth_chart(Depth.of(result), width)), LEGEND]


def _answer_tokens(name: str, targets: tuple[Target, ...]) -> RenderableType:
    rows = [{"number": number, **vars(target)} for number, target in enumerate(targets)]
    columns = [
        number_column("", "number", lambda number: Text(str(number), "dim")),
        Column("token", lambda row: token_text(row["text"], "bold")),
        number_column("rank", "rank", "{:,}".format),
        number_column("probability", "probability", percent),
        number_column("log p", "log_probability", signed),
        number_column("id", "id"),
    ]
    return table_of(title_text(name, "each after the prompt and those before"), rows, columns)


def _tables_of_sums(
    result: ContinuationAttribution, target: Text, width: int, n_rows: int | None
) -> list[RenderableType]:
    """Return the tables of each sort of part: what raises the target, and what lowers it; None: all rows."""
    neurons, against = result.attention_neurons_summed, result.suppressing_attention_neurons_summed
    texts = prediction_names(result)
    drawn = []
    for what, heading, *ends in (
        ("Heads", "layer.head", result.heads, result.heads[::-1]),
        ("FFN neurons", "layer.neuron", result.ffn_neurons, result.suppressing_ffn_neurons),
        ("Attention neurons", "layer.head.dim", neurons, against),
    ):
        most = _MOST_HEADS if what == "Heads" and n_rows is None else n_rows
        for verb, table in zip(("raise", "lower"), ends, strict=True):
            title = title_text(what, f"that {verb} ", target, ", by the sum of direct effects")
            drawn.append(_sums_table(title, table.iloc[:most], heading, texts, width))
    return drawn


def _sums_table(
    title: Text, table: pd.DataFrame, heading: str, texts: list[str], width: int
) -> RenderableType:
    """Return parts with their sums and the scores of as many tokens as the width holds."""
    rows = records(table)
    written = partial(signed, decimals=places(row["direct"] for row in rows))
    words = [tokens_column("promotes")] if "promotes" in table else []
    room = width - _BEFORE_TOKENS - (_WORDS if words else 0)
    n_tokens = max(1, room // _OF_A_TOKEN)
    columns = [
        Column(heading, row_name, whole=True),
        *expert_column(table),
        number_column("sum", "direct", written),
        bar_column("direct", rows),
        *(
            number_column(
                Text(f"{number} ") + token_text(text, most=_LONGEST_NAME),
                f"direct_{number}",
                lambda score: Text(written(score), "dim"),
            )
            for number, text in enumerate(texts[:n_tokens])
        ),
        *words,
    ]
    return table_of(title, rows, columns)


def _value_name(result: ContinuationAttribution) -> str:
    return "log p" if result.against is None else "log-odds"


def _closing_of_sums(result: ContinuationAttribution) -> list[str]:
    """Return the meaning of the numbers, the certificates of the lists, and the sum of the layers."""
    lines = [
        "sum: what a part itself writes towards each token, added up over the tokens; promotes: at the token "
        "where the score is largest",
    ]
    if result.against is not None:
        lines.append(
            "− before a token of the contrast: its score is subtracted; tokens that both begin with cancel"
        )
    for name in ("ffn_neurons", "attention_neurons_summed"):
        n_exact = result.costs[name].exact
        lines.append(f"{found_words(result, name)} by sum, {n_exact:,} scored exactly at every token")
    value = f"{_value_name(result)} of all tokens"
    return [*lines, sum_words(value, result.value_of_embeddings, result.value, result.telescoping_error)]
