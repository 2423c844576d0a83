"""Next tokens, and neurons and heads in vocabulary space, in a terminal."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

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
    origin_text,
    print_blocks,
    prompt_text,
    question_text,
    table_of,
    title_text,
    token_text,
)
from mnemoscope.report.text import percent, plain_number, signed
from mnemoscope.report.theme import LOWERS, RAISES
from mnemoscope.results.columns import records
from mnemoscope.results.examples import NeuronExamples
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron

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


_TITLES = {
    "highest": "Highest activations",
    "lowest": "Lowest activations",
    "++": "Gate above 0, up above 0",
    "+-": "Gate above 0, up below 0",
    "-+": "Gate below 0, up above 0",
    "--": "Gate below 0, up below 0",
}
_SPACE = "␣"  # sign of `token_text`
_STRONG = 0.5  # share of the window's best activation from which a token is coloured
_TOKEN_CELLS = 12  # cells
_BEFORE_WINDOW = 20 + _TOKEN_CELLS  # cells of the columns before the window, at most
_MEANING = (
    "activation: value that enters the output projection; at the token, bold in its window; coloured: at "
    "least half as large"
)


def render_examples(result: NeuronExamples, console: Console, rows: int = 5) -> None:
    """Print the best windows of each neuron and group."""
    corpus = result.corpus
    about = (
        f"{corpus.name}: {corpus.n_tokens:,} tokens in {corpus.n_windows:,} windows of at most "
        f"{corpus.window}, from {corpus.n_documents:,} texts"
    )
    print_blocks(
        console,
        Group(origin_text(result.provenance), Text(about, "dim")),
        *(block for neuron in result.neurons for block in _neuron(result, neuron, console.width, rows)),
        Text(_MEANING, "dim"),
    )


def _neuron(
    result: NeuronExamples, neuron: FFNNeuron | AttentionNeuron, width: int, n_rows: int
) -> list[RenderableType]:
    windows, signs = (records(table) for table in result.of(neuron))
    kind = "FFN neuron" if isinstance(neuron, FFNNeuron) else "Attention neuron"
    blocks: list[RenderableType] = [title_text(f"{kind} {neuron.name}")]
    counted = {row["group"]: f"{row['n_tokens']:,} tokens, {percent(row['share'])}" for row in signs}
    for group, title in _TITLES.items():
        rows = [row for row in windows if row["group"] == group]
        if rows or group in counted:
            blocks.append(_group(title_text(title, counted.get(group, "")), rows[:n_rows], width))
    return blocks if len(blocks) > 1 else [*blocks, Text("nowhere active", "dim")]


def _group(title: Text, rows: list[Row], width: int) -> RenderableType:
    columns = [
        number_column("activation", "activation", plain_number),
        number_column("text", "document"),
        Column("token", lambda row: token_text(row["token"], "bold", _TOKEN_CELLS)),
        Column("window", lambda row: _window(row, width - _BEFORE_WINDOW), stretches=True),
    ]
    return table_of(title, rows, columns)


def _window(row: Row, width: int) -> Text:
    """Return the tokens around the best one, as many as the width holds."""
    texts = [
        token_text(token, _style(row["activations"][place], row["activation"], place == row["position"]))
        for place, token in enumerate(row["tokens"])
    ]
    for text in texts:
        text.plain = text.plain.replace(_SPACE, " ")  # running text, not single tokens
    first = last = row["position"]
    room = width - texts[first].cell_len - 2
    while first > 0 or last < len(texts) - 1:
        # The tokens before the best one explain it, so they come first.
        if first > 0 and room >= texts[first - 1].cell_len:
            first -= 1
            room -= texts[first].cell_len
        elif last < len(texts) - 1 and room >= texts[last + 1].cell_len:
            last += 1
            room -= texts[last].cell_len
        else:
            break
    before, after = (Text("…" * is_cut, "dim") for is_cut in (first > 0, last < len(texts) - 1))
    return Text().join([before, *texts[first : last + 1], after])


def _style(activation: Any, best: float, is_best: bool) -> str:
    colour = RAISES if best > 0 else LOWERS
    if is_best:
        return f"bold {colour}"
    if activation is None or math.isnan(activation) or activation / best < _STRONG:
        return ""
    return colour
