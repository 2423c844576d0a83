"""Targets of several tokens in a terminal: the tokens, and what raises or lowers all of them together."""

from __future__ import annotations

import pandas as pd
from rich.console import Console, RenderableType
from rich.text import Text

from mnemoscope.report.terminal import Column, Row, prompt_text, table_of, title_text, token_text
from mnemoscope.report.terminal.attribution import legend, origin_text
from mnemoscope.report.terminal.depth import Depth, depth_chart
from mnemoscope.report.terminal.tables import bar_column, expert_column, name_column, tokens_text
from mnemoscope.report.text import certificate, found_words, percent, places, plain_number, signed
from mnemoscope.results.attribution import ContinuationAttribution
from mnemoscope.results.columns import records

_BEFORE_TOKENS = 36  # cells that a part's name, its sum and a bar take at most
_WORDS = 30  # cells that are kept for what a neuron promotes
_OF_A_TOKEN = 10  # cells that a token's scores take at most
_LONGEST_NAME = 12


def render_continuation(result: ContinuationAttribution, console: Console, rows: int = 10) -> None:
    """Show a result: the target's tokens, the model by depth, and the first rows of the tables of sums."""
    target = Text(" ").join(token_text(token.text, "bold") for token in result.targets)
    prompt = prompt_text(result.attributions[0].tokens, console.width)
    console.print(origin_text(result.provenance))
    console.print()
    console.print(prompt + Text(" ▸ ", "dim") + target)
    console.print(Text.assemble(("log p ", "dim"), plain_number(result.log_probability)))
    console.print()
    console.print(_tokens(result))
    console.print()
    console.print(title_text("Layers and heads", "nats they add to log p of all tokens of ", target))
    console.print(depth_chart(Depth.of(result), console.width))
    console.print()
    console.print(legend())
    for table in _tables_of_sums(result, target, console.width, rows):
        console.print()
        console.print(table)
    console.print()
    console.print(Text("\n").join(Text(line, "dim") for line in _closing(result)))


def _tokens(result: ContinuationAttribution) -> RenderableType:
    """Each token as the model predicts it after those before."""
    rows = [{"number": number, **vars(target)} for number, target in enumerate(result.targets)]
    columns = [
        Column("", lambda row: Text(str(row["number"]), "dim"), right=True),
        Column("token", lambda row: token_text(row["text"], "bold")),
        Column("rank", lambda row: f"{row['rank']:,}", right=True),
        Column("probability", lambda row: percent(row["probability"]), right=True),
        Column("log p", lambda row: signed(row["log_probability"]), right=True),
        Column("id", lambda row: str(row["id"]), right=True),
    ]
    return table_of(
        title_text("Tokens of the target", "each after the prompt and those before"), rows, columns
    )


def _tables_of_sums(
    result: ContinuationAttribution, target: Text, width: int, rows: int
) -> list[RenderableType]:
    """Each sort of part: what raises the target, and half as many that lower it."""
    fewer = (rows + 1) // 2
    sorts = (
        ("Heads", result.heads, result.heads[::-1], ("layer", "head")),
        ("FFN neurons", result.ffn_neurons, result.suppressing_ffn_neurons, ("layer", "neuron")),
        (
            "Attention neurons",
            result.attention_neurons_summed,
            result.suppressing_attention_neurons_summed,
            ("layer", "head", "dim"),
        ),
    )
    texts = [token.text for token in result.targets]
    drawn = []
    for what, raising, lowering, named in sorts:
        for verb, table, n_rows in (("raise ", raising, rows), ("lower ", lowering, fewer)):
            title = title_text(what, f"that {verb}", target, ", by the sum of direct effects")
            drawn.append(_table(title, table.head(n_rows), named, texts, width))
    return drawn


def _table(
    title: Text, table: pd.DataFrame, named: tuple[str, ...], texts: list[str], width: int
) -> RenderableType:
    """Rows with their sums and as many tokens' own scores as there is room for."""
    rows = records(table, tuple(table.columns))
    decimals = places(row["score"] for row in rows)
    words = []
    if "promotes" in table:
        words = [Column("promotes", lambda row: tokens_text(row["promotes"]), stretches=True)]
    room = width - _BEFORE_TOKENS - (_WORDS if words else 0)
    n_tokens = min(max(1, room // _OF_A_TOKEN), len(texts))
    columns = [
        name_column(*named),
        *expert_column(table),
        Column("sum", lambda row: signed(row["score"], decimals), right=True),
        bar_column("score", rows),
        *(_of_token(number, texts[number], decimals) for number in range(n_tokens)),
        *words,
    ]
    return table_of(title, rows, columns)


def _of_token(number: int, text: str, decimals: int) -> Column:
    def cell(row: Row) -> Text:
        return Text(signed(row[f"score_{number}"], decimals), "dim")

    heading = token_text(text)
    heading.truncate(_LONGEST_NAME, overflow="ellipsis")
    return Column(Text(f"{number} ") + heading, cell, right=True)


def _closing(result: ContinuationAttribution) -> list[str]:
    """What the numbers mean, how sure the lists are, and what the layers add up to."""
    lines = [
        "sum: what a part itself writes towards each token, added up over the tokens; promotes: at the token "
        "where the score is largest",
    ]
    for name, what in (("ffn_neurons", "FFN neurons"), ("attention_neurons_summed", "attention neurons")):
        cost, listed = result.costs[name], len(getattr(result, name))
        both_ends = not getattr(result, f"suppressing_{name}").empty
        found = found_words(certificate(result), both_ends, listed, cost, what)
        lines.append(f"{found} by sum, {cost.exact:,} scored exactly at every token")
    start, end = plain_number(result.log_probability_of_embeddings), plain_number(result.log_probability)
    path = f"log p of all tokens: {start} from embeddings, {end} at the end"
    if result.telescoping_error is not None:
        path += f"; the layers add up to the difference within {abs(result.telescoping_error):.0e}"
    return [*lines, path]
