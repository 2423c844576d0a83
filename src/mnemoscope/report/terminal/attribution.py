"""What the commands show in a terminal, drawn with Rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mnemoscope.model.families import OURS, VALIDATED
from mnemoscope.report.terminal import (
    Column,
    Row,
    abreast,
    prompt_text,
    score_bar,
    table_of,
    title_text,
    token_text,
)
from mnemoscope.report.terminal.depth import LOWERS, RAISES, Depth, depth_chart
from mnemoscope.report.terminal.tables import PartTables, query_section
from mnemoscope.report.text import (
    NAMES,
    NOTHING_READ,
    Effects,
    effect_text,
    percent,
    places,
    queries_are_missing,
    signed,
    sum_of_layers,
    target_facts,
    targets_text,
    value_facts,
    what_is_proven,
)
from mnemoscope.report.tokens import visible
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import records
from mnemoscope.results.targets import Provenance

if TYPE_CHECKING:
    from mnemoscope.results.prediction import Prediction


_BOTH_EFFECTS = 90  # cells from which direct and total effects stand side by side
_TWO_ABREAST = 124  # cells from which two tables of attention parts stand side by side
_TWO_FFN_ABREAST = 150
_SECOND_EFFECT = 9  # cells that it takes in each of two such tables


def render_attribution(result: Attribution, console: Console, rows: int = 10) -> None:
    """Show a result: the prediction, the model by depth, and the first rows of its tables."""
    target = targets_text(result.targets)
    effects = Effects.of(result)
    console.print(origin_text(result.provenance))
    console.print()
    console.print(prompt_text(result.tokens, console.width) + Text(" ▸ ", "dim") + target)
    console.print(_prediction_facts(result))
    console.print()
    console.print(title_text("Layers and heads", effects.in_nats, target))
    console.print(depth_chart(Depth.of(result, effects.order), console.width))
    console.print()
    console.print(legend())
    console.print()
    console.print(_strongest_heads(result, effects, console.width))
    for tables in _part_tables(result, effects, console.width, rows):
        console.print()
        console.print(tables)
    if result.query_neurons is not None:
        console.print()
        console.print(query_section(result.query_neurons, console.width, rows))
    console.print()
    if queries_are_missing(result):
        console.print(Text(NOTHING_READ, "dim"))
    console.print(_closing(result, effects))


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
    console.print(prompt_text(prediction.tokens, console.width) + Text(" ▸", "dim"))
    console.print()
    console.print(table_of(title_text("Likeliest next tokens"), rows, columns))


def render_families(families: pd.DataFrame, console: Console) -> None:
    """Print the validated model families and the largest error of each."""
    rows = records(families, tuple(families.columns))
    columns = [
        Column("family", _family),
        Column("norm", lambda row: _cell(row["norm"])),
        Column("worst error", _worst_error, right=True),
        Column("", _status),
        Column("variant", _variant, stretches=True),
    ]
    title = title_text(
        "Validated families", "a tiny random model of each, validated on this machine just now"
    )
    console.print(table_of(title, rows, columns))


def origin_text(origin: Provenance) -> Text:
    """The model that something was made with."""
    words = [origin.model, origin.revision[:12], origin.architecture, origin.dtype]
    return Text(" · ".join(visible(word) for word in words if word), "dim")


def legend() -> Text:
    """What the marks of a depth chart mean."""
    return Text.assemble(
        ("█ ■ ▪", RAISES),
        (" raises   ", "dim"),
        ("▒ □ ▫", LOWERS),
        (" lowers   · near zero", "dim"),
    )


def _prediction_facts(result: Attribution) -> Text:
    """What the model says of what it is asked; of several tokens also what it says of each."""
    targets = result.targets
    lines = [_facts_text(value_facts(targets))]
    if targets.one is None:
        for target in (*targets.answers, *targets.against):
            lines.append(token_text(target.text, "bold") + "   " + _facts_text(target_facts(target)))
    return Text("\n").join(lines)


def _facts_text(facts: dict[str, str]) -> Text:
    parts = [Text.assemble((name + " ", "dim"), value) for name, value in facts.items()]
    return Text("   ").join(parts)


def _strongest_heads(result: Attribution, effects: Effects, width: int) -> RenderableType:
    """The heads at both ends by name, which the map shows only as places."""
    ends = {"raise": result.heads, "lower": result.heads[::-1]}
    if effects.totals and width >= _BOTH_EFFECTS:
        return _heads_with_both(ends, effects, width)
    return Text("\n").join(_heads_in_a_line(verb, heads, effects, width) for verb, heads in ends.items())


def _heads_with_both(ends: dict[str, pd.DataFrame], effects: Effects, width: int) -> Table:
    """A column for each head: its name, and both effects below it."""
    decimals = {name: places(ends["raise"][name]) for name in effects.columns()}
    n_heads = (width - len("heads that raise most")) // 9
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", style="dim")
    for verb, heads in ends.items():
        rows = records(heads.head(n_heads), ("layer", "head", *decimals))
        grid.add_row(f"heads that {verb} most", *(f"{row['layer']}.{row['head']}" for row in rows))
        for name, n_places in decimals.items():
            numbers = (effect_text(name, row[name], n_places) for row in rows)
            grid.add_row(NAMES[name], *(Text(number, "dim") for number in numbers))
    return grid


def _heads_in_a_line(verb: str, heads: pd.DataFrame, effects: Effects, width: int) -> Text:
    decimals = places(heads[effects.order])
    line = Text.assemble((f"heads that {verb} most", "dim"))
    for row in records(heads.head(max(1, (width - 24) // 15)), ("layer", "head", effects.order)):
        line += Text.assemble(
            f"  {row['layer']}.{row['head']} ", (signed(row[effects.order], decimals), "dim")
        )
    return line


def _part_tables(result: Attribution, effects: Effects, width: int, rows: int) -> list[RenderableType]:
    """Each sort of part: those that raise the target, and half as many that lower it."""
    target = targets_text(result.targets)
    fewer = (rows + 1) // 2
    tables = PartTables(effects, both=width >= _BOTH_EFFECTS)
    more = 2 * _SECOND_EFFECT if effects.totals else 0
    two_abreast, two_ffn_abreast = _TWO_ABREAST + more, _TWO_FFN_ABREAST + more

    def raising(what: str) -> Text:
        return title_text(what, "that raise ", target, f", by {effects.name} effect")

    def lowering(what: str) -> Text:
        return title_text(what, "that lower ", target, f", by {effects.name} effect")

    ffn_width = width // 2 if width >= two_ffn_abreast else width
    ffn = [
        tables.ffn(raising("FFN neurons"), result.ffn_neurons, rows, ffn_width),
        tables.ffn(lowering("FFN neurons"), result.suppressing_ffn_neurons, fewer, ffn_width),
    ]
    neurons = [
        tables.attention(raising("Attention neurons"), result.attention_neurons, rows),
        tables.attention(lowering("Attention neurons"), result.suppressing_attention_neurons, fewer),
    ]
    heads = [
        tables.positions(raising("Heads at positions"), result.positions, rows),
        tables.positions(lowering("Heads at positions"), result.suppressing_positions, fewer),
    ]
    return [
        abreast(ffn, width, two_ffn_abreast),
        abreast(neurons, width, two_abreast),
        abreast(heads, width, two_abreast),
    ]


def _closing(result: Attribution, effects: Effects) -> Text:
    told = effects.meanings(effects.columns()).items()
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in told)
    lines = [meanings, *what_is_proven(result), sum_of_layers(result)]
    return Text("\n").join(Text(line, "dim") for line in lines)


def _cell(value: str | float) -> str:
    """The text of a cell; a family that could not be built has none."""
    return value if isinstance(value, str) else ""


def _family(row: Row) -> Text:
    """Its name, and what package it comes with if not with ours."""
    name = Text(visible(row["family"]), "bold")
    return name if row["package"] == OURS else name.append(f" · {visible(row['package'])}", "not bold dim")


def _worst_error(row: Row) -> str:
    return "" if pd.isna(row["worst_error"]) else f"{row['worst_error']:.0e}"


def _status(row: Row) -> Text:
    passed = row["status"] == VALIDATED
    return Text(VALIDATED if passed else f"not {VALIDATED}", RAISES if passed else f"bold {LOWERS}")


def _variant(row: Row) -> Text:
    """Return a configuration's variant, with the reason where its validation failed."""
    variant = Text(visible(row["variant"]))
    return variant if row["status"] == VALIDATED else variant.append(f": {visible(row['status'])}", LOWERS)
