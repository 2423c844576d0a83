"""Windows of a corpus in which neurons are most active, in a terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from mnemoscope.report.terminal import (
    Column,
    Row,
    number_column,
    origin_text,
    print_blocks,
    table_of,
    title_text,
    token_text,
)
from mnemoscope.report.text import percent, plain_number
from mnemoscope.report.theme import LOWERS, RAISES
from mnemoscope.results.columns import records
from mnemoscope.results.examples import NeuronExamples
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron

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
