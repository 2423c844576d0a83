"""What the commands show in a terminal, drawn with Rich.

Every text that comes from a model or a caller goes through `visible` and into a `Text`, never into
markup, so no token can restyle or steer the terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mnemoscope.attribution.result import Attribution, records
from mnemoscope.view.depth import Depth
from mnemoscope.view.depth_chart import LOWERS, RAISES, depth_chart
from mnemoscope.view.facts import sum_of_layers, what_is_proven
from mnemoscope.view.numbers import percent, places, plain_number, signed
from mnemoscope.view.part_tables import (
    Column,
    Row,
    attention_table,
    ffn_table,
    position_table,
    score_bar,
    table_of,
    token_text,
)
from mnemoscope.view.tokens import middle_left_out, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnemoscope.attribution.reading import NeuronReading
    from mnemoscope.intervention.ablation import Ablation
    from mnemoscope.prediction import Prediction

_PROMPT_LINES = 4
_LONGEST_TOKEN = 40
_NAMED_PARTS = 20
_TWO_ABREAST = 124  # cells from which two tables of attention parts stand side by side
_TWO_FFN_ABREAST = 150


def render_attribution(result: Attribution, console: Console, rows: int = 10) -> None:
    """Show a result: the prediction, the model by depth, and the first rows of its tables."""
    target = token_text(result.target.text, "bold")
    console.print(_origin(result))
    console.print()
    console.print(_prompt(result.tokens, console.width) + Text(" ▸ ", "dim") + target)
    console.print(_prediction_facts(result))
    console.print()
    console.print(_title("Layers and heads", "nats they add to log p of ", target))
    console.print(depth_chart(Depth.of(result), console.width))
    console.print()
    console.print(_legend())
    console.print(_strongest_heads(result, max(1, (console.width - 24) // 15)))
    for tables in _part_tables(result, console.width, rows):
        console.print()
        console.print(tables)
    console.print()
    console.print(_closing(result))


def render_prediction(prediction: Prediction, console: Console) -> None:
    """Show the likeliest next tokens."""
    rows = records(prediction.table, tuple(prediction.table.columns))
    largest = max((row["probability"] for row in rows), default=0.0)
    columns = [
        Column("rank", lambda row: str(row["rank"]), right=True),
        Column("token", lambda row: token_text(row["token"], "bold")),
        Column("probability", lambda row: percent(row["probability"]), right=True),
        Column("", lambda row: score_bar(row["probability"], largest, 24)),
        Column("log p", lambda row: signed(row["log_probability"]), right=True),
        Column("id", lambda row: str(row["id"]), right=True),
    ]
    console.print(_prompt(prediction.tokens, console.width) + Text(" ▸", "dim"))
    console.print()
    console.print(table_of(_title("Likeliest next tokens"), rows, columns))


def render_neuron(reading: NeuronReading, console: Console) -> None:
    """Show what an FFN neuron writes: the tokens at both ends of the vocabulary."""
    name = f"FFN neuron {reading.layer}.{reading.neuron}"
    console.print(_title(name, f"norm {plain_number(reading.norm)}"))
    console.print(Text("A negative coefficient swaps the two lists.", "dim"))
    console.print()
    tables = [
        _reading_table("promotes", reading.promotes),
        _reading_table("demotes", reading.demotes),
    ]
    console.print(_abreast(tables, console.width, 60))


def render_ablation(ablation: Ablation, console: Console) -> None:
    """Show a target before and after an intervention, and after random ones."""
    target = token_text(ablation.target[1], "bold")
    names = [".".join(map(str, part)) for part in ablation.parts]
    console.print(_prompt(ablation.tokens, console.width) + Text(" ▸ ", "dim") + target)
    console.print()
    console.print(_title(f"{len(names)} {_kinds(ablation)}", ablation.how))
    console.print(Text(" ".join(names[:_NAMED_PARTS]) + (" …" if len(names) > _NAMED_PARTS else ""), "dim"))
    console.print()
    mean, spread = ablation.controls_mean, ablation.controls_standard_deviation
    random = f"{len(ablation.controls)} random (mean ± standard deviation)"
    nothing = dict.fromkeys(mean, 0.0)
    rows: list[Row] = [
        {"what": "before", "value": ablation.before, "spread": nothing},
        {"what": "after", "value": ablation.after, "spread": nothing},
        {"what": random, "value": mean, "spread": spread},
    ]
    columns = [
        Column("", lambda row: Text(row["what"], "bold" if row["what"] == "after" else "")),
        Column("1 / rank", lambda row: _with_spread(row, "reciprocal_rank", "{:.3f}".format), right=True),
        Column("probability", lambda row: _with_spread(row, "probability", percent), right=True),
        Column("log p", lambda row: _with_spread(row, "log_probability", signed), right=True),
    ]
    console.print(table_of(_title("What it does to ", token=target), rows, columns))


def _kinds(ablation: Ablation) -> str:
    kinds = {
        "FFNNeuron": "FFN neurons",
        "AttentionNeuron": "attention neurons",
        "Head": "heads",
        "Layer": "layers",
    }
    found = list(dict.fromkeys(kinds[type(part).__name__] for part in ablation.parts))
    return f"parts: {', '.join(found)}" if len(found) > 1 else found[0]


def _with_spread(row: Row, metric: str, written: Callable[[float], str]) -> str:
    spread = row["spread"][metric]
    value = written(row["value"][metric])
    return f"{value} ± {written(spread).lstrip('+')}" if spread else value


def render_families(families: pd.DataFrame, console: Console) -> None:
    """Show which model families were proven, and how exactly."""
    rows = records(families, tuple(families.columns))
    columns = [
        Column("family", lambda row: Text(row["family"], "bold")),
        Column("variant", lambda row: row["variant"]),
        Column("norm", lambda row: _cell(row["norm"])),
        Column("worst error", _worst_error, right=True),
        Column("status", _status, stretches=True),
    ]
    title = _title("Proven families", "a tiny random model of each, proven on this machine just now")
    console.print(table_of(title, rows, columns))


def _title(title: str, note: str = "", token: Text | None = None) -> Text:
    return Text.assemble((title, "bold"), "  ", (note, "dim"), token or "")


def _origin(result: Attribution) -> Text:
    origin = result.provenance
    words = [origin.model, origin.revision[:12], origin.architecture, origin.dtype]
    return Text(" · ".join(visible(word) for word in words if word), "dim")


def _prompt(tokens: tuple[str, ...], width: int) -> Text:
    """The prompt's tokens, a long prompt with its middle left out."""
    texts = [token_text(token) for token in tokens]
    for text in texts:
        text.truncate(_LONGEST_TOKEN, overflow="ellipsis")
    widths = [text.cell_len + 1 for text in texts]
    head, tail = middle_left_out(widths, _PROMPT_LINES * (width - _LONGEST_TOKEN // 4))
    left_out = len(texts) - head - tail
    gap = [Text(f"… {left_out} more …", "dim italic")] if left_out else []
    return Text(" ").join([*texts[:head], *gap, *texts[len(texts) - tail :]])


def _prediction_facts(result: Attribution) -> Text:
    target = result.target
    facts = {
        "rank": f"{target.rank:,}",
        "probability": percent(target.probability),
        "log p": plain_number(target.log_probability),
        "id": str(target.id),
    }
    parts = [Text.assemble((name + " ", "dim"), value) for name, value in facts.items()]
    return Text("   ").join(parts)


def _legend() -> Text:
    return Text.assemble(
        ("█ ■ ▪", RAISES),
        (" raises   ", "dim"),
        ("▒ □ ▫", LOWERS),
        (" lowers   · near zero", "dim"),
    )


def _strongest_heads(result: Attribution, n_heads: int) -> Text:
    """The heads at both ends by name, which the map shows only as places."""
    decimals = places(result.heads["score"])
    lines = []
    for verb, heads in (("raise", result.heads), ("lower", result.heads[::-1])):
        line = Text.assemble((f"heads that {verb} most", "dim"))
        for row in records(heads.head(n_heads), ("layer", "head", "score")):
            score = signed(row["score"], decimals)
            line += Text.assemble(f"  {row['layer']}.{row['head']} ", (score, "dim"))
        lines.append(line)
    return Text("\n").join(lines)


def _part_tables(result: Attribution, width: int, rows: int) -> list[RenderableType]:
    """Each sort of part: those that raise the target, and half as many that lower it."""
    target = token_text(result.target.text, "bold")
    fewer = (rows + 1) // 2

    def raising(what: str) -> Text:
        return _title(what, "that raise ", target)

    def lowering(what: str) -> Text:
        return _title(what, "that lower ", target)

    ffn_width = width // 2 if width >= _TWO_FFN_ABREAST else width
    ffn = [
        ffn_table(raising("FFN neurons"), result.ffn_neurons, rows, ffn_width),
        ffn_table(lowering("FFN neurons"), result.suppressing_ffn_neurons, fewer, ffn_width),
    ]
    neurons = [
        attention_table(raising("Attention neurons"), result.attention_neurons, rows),
        attention_table(lowering("Attention neurons"), result.suppressing_attention_neurons, fewer),
    ]
    heads = [
        position_table(raising("Heads at positions"), result.positions, rows),
        position_table(lowering("Heads at positions"), result.suppressing_positions, fewer),
    ]
    return [
        _abreast(ffn, width, _TWO_FFN_ABREAST),
        _abreast(neurons, width, _TWO_ABREAST),
        _abreast(heads, width, _TWO_ABREAST),
    ]


def _abreast(tables: list[RenderableType], width: int, from_width: int) -> RenderableType:
    """Two tables side by side where the width allows, else one below the other."""
    grid = Table.grid(expand=True, padding=(0, 3, 0, 0) if width >= from_width else 0)
    if width >= from_width:
        for _ in tables:
            grid.add_column(ratio=1)
        grid.add_row(*tables)
        return grid
    for index, table in enumerate(tables):
        grid.add_row(Padding(table, (1 if index else 0, 0, 0, 0)))
    return grid


def _closing(result: Attribution) -> Text:
    lines = [*what_is_proven(result), sum_of_layers(result)]
    return Text("\n").join(Text(line, "dim") for line in lines)


def _reading_table(title: str, tokens: tuple[tuple[str, float], ...]) -> RenderableType:
    rows: list[Row] = [{"token": token, "value": value} for token, value in tokens]
    largest = max((abs(value) for _, value in tokens), default=0.0)
    columns = [
        Column("token", lambda row: token_text(row["token"], "bold")),
        Column("value", lambda row: signed(row["value"], 2), right=True),
        Column("", lambda row: score_bar(row["value"], largest)),
    ]
    return table_of(_title(title), rows, columns)


def _cell(value: str | float) -> str:
    """The text of a cell; a family that could not be built has none."""
    return value if isinstance(value, str) else ""


def _worst_error(row: Row) -> str:
    return "" if pd.isna(row["worst_error"]) else f"{row['worst_error']:.0e}"


def _status(row: Row) -> Text:
    return Text(row["status"], RAISES if row["status"] == "proven" else f"bold {LOWERS}")
