"""Next tokens, and neurons and heads in vocabulary space, in a terminal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.text import Text

from mnemoscope.report.readable import readable
from mnemoscope.report.terminal import (
    Column,
    Row,
    abreast,
    bar_column,
    number_column,
    print_blocks,
    prompt_text,
    question_text,
    table_of,
    title_text,
    token_text,
)
from mnemoscope.report.text import percent, plain_number, signed
from mnemoscope.results.columns import records

if TYPE_CHECKING:
    from mnemoscope.results.prediction import HeadTokens, NeuronTokens, Prediction

_TWO_ABREAST = 60  # cells from which promoted and demoted tokens stand side by side
_IN_ONE_TABLE = 130  # cells from which the input, key and value of a head stand in one table
_WITH_BARS = 60
_LONGEST_TOKEN = 16
_MOST_POSITIONS = 20
_WORDS = (
    "tokens: the top ones of vectors read through the frozen final norm and the unembedding; no effects\n"
    "brings (value): what the head adds to the stream at the last position from there; norm: its length\n"
    "meets (input): the stream before the head's layer, there\n"
    "looks for (key): the change of that stream which would raise the head's attention to it fastest"
)


def render_prediction(prediction: Prediction, console: Console) -> None:
    """Print the likeliest next tokens."""
    prediction = readable(prediction)
    rows = records(prediction.table)
    columns = [
        number_column("rank", "rank"),
        Column("token", lambda row: token_text(row["token"], "bold")),
        number_column("probability", "probability", percent),
        bar_column("probability", rows, 24),
        number_column("log p", "log_probability", signed),
        number_column("id", "id"),
    ]
    print_blocks(
        console,
        question_text(prediction.tokens, console.width),
        table_of(title_text("Likeliest next tokens"), rows, columns),
    )


def render_neuron(reading: NeuronTokens, console: Console) -> None:
    """Print the tokens that an FFN neuron promotes and demotes, directly or through a head."""
    lines = [
        title_text(f"FFN neuron {reading.layer}.{reading.neuron}", f"norm {plain_number(reading.norm)}"),
        Text("A negative coefficient swaps the two lists.", "dim"),
    ]
    if reading.through is not None:
        name = f"Through head {reading.through.name}"
        lines.insert(0, title_text(name, "what its value-output map makes of the column of"))
    ends = []
    for title, tokens in (("promotes", reading.promotes), ("demotes", reading.demotes)):
        rows: list[Row] = [{"token": token, "value": value} for token, value in tokens]
        columns = [
            Column("token", lambda row: token_text(row["token"], "bold")),
            number_column("value", "value", partial(signed, decimals=2)),
            bar_column("value", rows),
        ]
        ends.append(table_of(title_text(title), rows, columns))
    print_blocks(console, Group(*lines), abreast(ends, console.width, _TWO_ABREAST))


def render_head(reading: HeadTokens, console: Console) -> None:
    """Print a head at the positions with most of its attention, in the order of the prompt."""
    reading = readable(reading)
    shown = reading.table.nlargest(_MOST_POSITIONS, "attention").sort_index()
    left_out = reading.table.drop(shown.index)
    words = Text(_WORDS, "dim")
    if not left_out.empty:
        positions = "position" if len(left_out) == 1 else "positions"
        rest = percent(left_out["attention"].sum())
        words = Text(f"{len(left_out):,} more {positions} with {rest} of the attention\n", "dim") + words
    prompt = prompt_text(reading.tokens, console.width)
    print_blocks(console, prompt, *_tables(reading, shown, console.width), words)


def _tables(reading: HeadTokens, shown: pd.DataFrame, width: int) -> list[RenderableType]:
    rows = records(shown)
    title = title_text(f"Head {reading.layer}.{reading.head}", "seen from the last position")
    position = [
        number_column("", "position", lambda position: Text(str(position), "dim")),
        Column("token", lambda row: token_text(row["token"], "bold", _LONGEST_TOKEN)),
    ]
    attention = [number_column("attention", "attention", percent)]
    if width >= _WITH_BARS:
        attention.append(bar_column("attention", rows))
    meets = [_tokens_column("meets (input)", "input"), _tokens_column("looks for (key)", "key")]
    brings = [
        _tokens_column("brings (value)", "value"),
        number_column("norm", "value_norm", plain_number),
    ]
    if width >= _IN_ONE_TABLE:
        return [table_of(title, rows, [*position, *attention, *meets, *brings])]
    return [
        table_of(title, rows, [*position, *attention, *brings]),
        table_of(title_text("What it meets and looks for", "at each position"), rows, [*position, *meets]),
    ]


def _tokens_column(title: str, name: str) -> Column:
    shown = partial(token_text, most=_LONGEST_TOKEN)
    return Column(title, lambda row: Text(" ").join(map(shown, row[name])), stretches=True)
